"""A backbone of the user's own: gates on the user's id, asked for by role and not by position."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.contracts import own_block_errors
from tests.doubles.random_weights import randomise
from tests.doubles.worlds import PROBLEM as SHOP
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.declare.experiment import ExperimentConfig, Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number
from tfmtl.errors import SpecError
from tfmtl.layers.experts import Experts, ParallelDense
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.operations.base import Interaction

ROWS = 8


class GatedTowers(Backbone):
    """One layer per task, each number times a gate made of some fields (after PPNet, KDD 2023).

    Args:
        tasks: Task names.
        units: Width of the layer.
        by: The role of the fields that the gates read.
        declared: Whether the stacked weights are declared as the tasks' own.
    """

    tower_units = ()

    def __init__(self, tasks, *, units=6, by="user_id", declared=True, **kwargs):
        super().__init__(tasks, **kwargs)
        self.units, self.by, self.declared = units, by, declared
        self.layer = Experts(len(self.tasks), (units,), name="layer")
        self.gate = ParallelDense(len(self.tasks), units, name="gate")

    def describe(self, problem, fields):
        super().describe(problem, fields)
        self.prior = fields.with_role(self.by)

    def call(self, fields, training=False):
        prior = flatten(self.fields.take(fields, self.prior))
        gates = 2.0 * tf.sigmoid(self.gate(tf.stop_gradient(prior)))
        h = gates * self.layer(flatten(fields), training=training)
        return {t: h[:, k] for k, t in enumerate(self.tasks)}

    def own_blocks(self):
        return [(v, self.tasks) for v in self.trainable_variables] if self.declared else []


class Doubled(Interaction):
    """Twice each field."""

    def call(self, inputs, training=False):
        return 2.0 * inputs


def problem_of(*order, **roles):
    features = {
        "user": categorical("user", column="uid", side="user", encoding="identity", size=9),
        "ad": categorical("ad", side="ad", encoding="identity", size=9),
        "age": numerical("age", side="user"),
    }
    return ProblemSpec(
        features=tuple(features[name] for name in order or features),
        tasks=(binary("ctr", label="click"), binary("like", label="like")),
        **roles,
    )


KNOWN = problem_of(user_id="uid")
PACKED = {
    "ids_user": tf.constant(np.arange(ROWS)[:, np.newaxis] % 5 + 2, tf.int64),
    "ids_ad": tf.constant(np.arange(ROWS)[:, np.newaxis] % 7 + 2, tf.int64),
    "numbers_user": tf.constant(np.linspace(-1, 1, ROWS)[:, np.newaxis], tf.float32),
}


def model_of(problem=KNOWN, **changes):
    settings = {"backbone": GatedTowers, "dim": 4, **changes}
    model = MultiTaskModel.build_from(problem, {"user": 11, "ad": 11}, Model(**settings))
    model(PACKED)
    randomise(model)
    return model


def test_gates_read_the_field_of_the_user_s_id_wherever_it_is_declared():
    for order in (("user", "ad", "age"), ("age", "ad", "user")):
        model = model_of(problem_of(*order, user_id="uid"))
        assert model.backbone.prior == ("user",)
        place = model.backbone.fields.names.index("user")
        fields, _ = model.backbone.embed(model.embedding, PACKED)
        gates = 2 * tf.sigmoid(model.backbone.gate(fields[:, place]))
        layer = model.backbone.layer(flatten(fields))
        for k, h in enumerate(model.backbone(fields).values()):
            np.testing.assert_allclose(h, (gates * layer)[:, k], atol=1e-6)


def test_a_side_is_a_role_too():
    by_ad = {"name": f"{__name__}:GatedTowers", "by": "ad"}
    assert model_of(backbone=by_ad).backbone.prior == ("ad",)


def test_a_declaration_without_the_role_is_refused_with_what_to_declare():
    with pytest.raises(SpecError, match=r"ProblemSpec\(user_id='user_id'\) and the feature"):
        model_of(problem_of())


def test_each_tower_and_each_task_is_told_of_its_own_fields():
    rows = {f.name: 9 for f in SHOP.features}
    towers = {"name": "two_tower", "user_units": (4,), "ad_units": (4,), "width": 2}
    model = MultiTaskModel.build_from(SHOP, rows, Model(backbone=towers, dim=8))
    names = {tower: fields.names for tower, fields in model.backbone.fields.items()}
    assert "ad" in names["ad"] and "ad" not in names["user"] and "scene" in names["user"]
    single = {"name": "single_task", "bottom_units": (4,)}
    model = MultiTaskModel.build_from(SHOP, rows, Model(backbone=single, dim=8))
    assert set(model.backbone.fields) == {"ctr", "cvr", "ctcvr", "cqs"}
    scene = {fields.with_role("scene") for fields in model.backbone.fields.values()}
    assert scene == {("scene",)}


def test_stacked_weights_that_are_not_declared_break_the_contract():
    model = model_of()
    fields, _ = model.backbone.embed(model.embedding, PACKED)
    assert own_block_errors(model.backbone, lambda: model.backbone(fields)) == []
    model.backbone.declared = False
    errors = own_block_errors(model.backbone, lambda: model.backbone(fields))
    assert len(errors) == len(model.backbone.trainable_variables) == 4
    assert all("declare it in own_blocks()" in error for error in errors)


def test_blocks_that_are_declared_in_another_order_break_the_contract():
    model = model_of()
    fields, _ = model.backbone.embed(model.embedding, PACKED)
    variables = model.backbone.trainable_variables
    model.backbone.own_blocks = lambda: [(v, ("like", "ctr")) for v in variables]
    errors = own_block_errors(model.backbone, lambda: model.backbone(fields))
    assert len(errors) == 2 * len(variables) and "trains them too" in errors[0]


def test_a_variable_that_both_tasks_train_may_not_be_declared():
    model = model_of(backbone={"name": "shared_bottom", "bottom_units": (4,)})
    fields, _ = model.backbone.embed(model.embedding, PACKED)
    kernel = model.backbone.last_shared()[0]
    model.backbone.own_blocks = lambda: [(kernel, ("ctr", "like"))]
    assert own_block_errors(model.backbone, lambda: model.backbone(fields)) != []


# --- by class, by name, by where it is -----------------------------------------------------------


def test_a_part_is_given_as_a_name_a_class_or_a_mapping():
    place = f"{__name__}:GatedTowers"
    assert Model(backbone="ple").backbone == {"name": "ple"}
    assert Model(backbone=GatedTowers).backbone == {"name": place}
    assert Model(backbone={"name": place, "units": 3}).backbone == {"name": place, "units": 3}
    assert Model(backbone={"name": GatedTowers, "units": 3}).backbone["name"] == place
    model = Model(interaction="cross", balancer="pcgrad", terms=("order_calibration",))
    assert model.interaction == {"name": "cross"} and model.balancer == {"name": "pcgrad"}
    assert model.terms == ({"name": "order_calibration"},)
    assert Model(interaction=Doubled).interaction == {"name": f"{__name__}:Doubled"}


def test_what_is_no_part_is_refused():
    with pytest.raises(SpecError, match="a backbone is a name, a class or function"):
        Model(backbone=3)

    class Hidden(Backbone):
        def call(self, fields, training=False):
            return {}

    with pytest.raises(SpecError, match="at the top of a module"):
        Model(backbone=Hidden)


def test_an_own_interaction_stands_below_the_backbone():
    model, plain = model_of(interaction=Doubled), model_of()
    fields, _ = model.backbone.embed(model.embedding, PACKED)
    assert isinstance(model.interaction, Doubled)
    for k, h in model.represent(PACKED)[0].items():
        np.testing.assert_allclose(h, model.backbone(2.0 * fields)[k], atol=1e-6)
        assert np.abs(h - plain.represent(PACKED)[0][k]).max() > 1e-3


FRESH = """
import json, sys
from tfmtl.declare.experiment import ExperimentConfig
assert "tensorflow" not in sys.modules
experiment = ExperimentConfig.from_json(sys.stdin.read())
assert experiment.to_json() == ExperimentConfig.from_json(experiment.to_json()).to_json()
from tfmtl.model.multitask import MultiTaskModel
model = MultiTaskModel.build_from(experiment.problem, {"user": 11, "ad": 11}, experiment.model)
print(json.dumps([type(model.backbone).__qualname__, model.backbone.units, model.backbone.prior]))
"""


def test_an_experiment_with_an_own_backbone_is_read_and_built_by_a_fresh_process():
    experiment = ExperimentConfig(
        name="own",
        problem=KNOWN,
        split=by_row_number(),
        model=Model(backbone={"name": GatedTowers, "units": 3}, interaction=Doubled, dim=4),
    )
    assert ExperimentConfig.from_json(experiment.to_json()) == experiment
    run = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=experiment.to_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout.splitlines()[-1]) == ["GatedTowers", 3, ["user"]]


def test_an_own_backbone_trains():
    model = model_of()
    model.compile(keras.optimizers.Adam(0.05))
    batch = {
        **PACKED,
        "labels": tf.constant(np.arange(2 * ROWS).reshape(ROWS, 2) % 3 == 0, tf.float32),
        "label_weights": tf.ones([ROWS, 2]),
    }
    first = float(model.compute_loss(batch)[0])
    for _ in range(20):
        model.train_step(batch)
    assert float(model.compute_loss(batch)[0]) < first / 2
