"""Two-stage meta-training of whole models."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles import worlds
from tests.doubles.kills import Kill
from tfmtl import registry
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import by_hash
from tfmtl.errors import SpecError
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.meta.inner_loop import adapt, mean_meta_gradient
from tfmtl.meta.tasks import OBJECTIVES, QUERY, SUPPORT, tasks_of
from tfmtl.meta.train import MetaLearner, freeze_below, inner_of, unfreeze
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.serving.export import export
from tfmtl.training.epochs import compile_model

IDS, STEPS = 20, 3
PROBLEM = ProblemSpec(
    features=(
        categorical("user", encoding="identity", size=IDS, side="user"),
        categorical("ad", encoding="identity", size=IDS, side="ad"),
    ),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
)
MAN = {"name": "man", "num_specific": 1, "num_shared": 1, "expert_units": ((6,),)}
NETWORK = Model(
    backbone={**MAN, "batch_norm": True},
    balancer={"name": "uncertainty"},
    dim=4,
    tower_units=(4,),
    tower_batch_norm=True,
)
META = Meta(tasks_per_step=2, task_rows=16, finetune_epochs=1, finetune_rate=0.01)


def rows(count, seed):
    rng = np.random.default_rng(seed)
    user, ad = rng.integers(0, IDS, (2, count, 1))
    labels = rng.random((count, 2)) < np.where(user > ad, 0.8, 0.2)
    return ArrayRows(
        {
            "ids_user": user + 2,
            "ids_ad": ad + 2,
            LABELS: labels.astype(np.float32),
            WEIGHTS: np.ones([count, 2], np.float32),
        }
    )


DATA = PackedData(rows(32 * STEPS, 0), rows(64, 1), {"user": IDS + 2, "ad": IDS + 2})


def config(meta=META, model=NETWORK, **training):
    settings = {"epochs": 1, "batch_size": 32, "monitor": "loss", "learning_rate": 0.01}
    return ExperimentConfig(
        name="small",
        problem=PROBLEM,
        split=by_hash("user"),
        model=model,
        training=Training(**{**settings, **training}),
        meta=meta,
    )


def learner_of(meta=META, model=NETWORK):
    keras.utils.set_random_seed(1)
    built = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, model)
    compile_model(built, Training())
    built(next(iter(DATA.train.batches(4))))
    return MetaLearner(built, meta)


def meta_batch(problem, train_rows, meta, objectives):
    tasks = tasks_of(problem, train_rows, meta, batch_size=32, objectives=objectives)
    return next(iter(tasks.batches(0)))


# --- the step --------------------------------------------------------------------------------


def test_the_query_rows_are_judged_by_adapted_weights():
    tasks = meta_batch(PROBLEM, DATA.train, META, 2)

    def of_step(rate):
        learner = learner_of(dataclasses.replace(META, inner_rate=rate))
        return float(learner.train_step(tasks)["loss"])

    learner = learner_of()
    plain = np.mean(
        [
            learner.loss_of(({k: v[i] for k, v in tasks[QUERY].items()}, tasks[OBJECTIVES][i]))[0]
            for i in range(2)
        ]
    )
    assert of_step(0.0) == pytest.approx(plain, rel=1e-5)
    assert abs(of_step(5.0) - plain) > 0.05


@pytest.mark.parametrize("which", ["no_embedding", "all"])
def test_embeddings_adapt_if_asked_and_the_balancer_s_weights_never(which):
    model = learner_of().model
    names = {
        v.ref() for v in inner_of(model, dataclasses.replace(META, inner_params=which)).variables
    }
    assert names.isdisjoint(v.ref() for v in model.balancer.variables)
    tables = {v.ref() for v in model.tables}
    assert tables <= names if which == "all" else tables.isdisjoint(names)
    assert {v.ref() for v in model.heads.trainable_variables} <= names


def test_a_task_of_one_objective_leaves_the_other_s_tower_alone():
    # Without weight decay, which is on all kernels.
    learner = learner_of(model=dataclasses.replace(NETWORK, l2=0.0))
    packed = next(iter(DATA.train.batches(16)))
    with tf.GradientTape() as tape:
        value, _ = learner.loss_of((packed, tf.constant([True, False])))
    towers = learner.model.heads.towers
    of_ctr, of_like = (towers[t].trainable_variables for t in ("ctr", "like"))
    found, other = tape.gradient(value, [of_ctr, of_like])
    assert any(np.abs(g).max() > 0 for g in found)
    assert all(g is None or not np.any(g) for g in other)


@pytest.mark.parametrize("name", sorted(set(registry.names("balancer")) - {"fixed", "uncertainty"}))
def test_balancers_that_make_gradients_are_refused(name):
    with pytest.raises(SpecError, match="use 'fixed' or 'uncertainty'"):
        learner_of(model=dataclasses.replace(NETWORK, balancer={"name": name}))


# --- any backbone ----------------------------------------------------------------------------

QUICK = ("man",)
BACKBONES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in registry.names("backbone")
]


# Above the noise of float32, which the loss is reckoned in.
CLOSE = 0.03


def slope(model, **settings):
    """The meta-gradient's length, and the loss's slope along it by a one-sided difference."""
    meta = Meta(tasks_per_step=2, task_rows=64, inner_rate=0.3, **settings)
    config = worlds.experiment(**model).model
    _, data = worlds.packed(256, 16)
    keras.utils.set_random_seed(1)
    model = MultiTaskModel.build_from(worlds.PROBLEM, data.table_rows, config)
    compile_model(model, Training())
    model(next(iter(data.train.batches(4))))
    learner, count = MetaLearner(model, meta), len(model.heads.trained)
    tasks = meta_batch(worlds.PROBLEM, data.train, meta, count)
    variables, inner = [*model.trained_tables, *model.dense_variables], inner_of(model, meta)
    pair = tuple((tasks[half], tasks[OBJECTIVES]) for half in (SUPPORT, QUERY))

    @tf.function(autograph=False)
    def gradient():
        return mean_meta_gradient(learner.loss_of, pair, inner, variables, length=count)

    @tf.function(autograph=False)
    def value():
        total = 0.0
        for index in range(2):
            support, query = tf.nest.map_structure(lambda t, i=index: t[i], pair)
            adapted = adapt(learner.loss_of, support, inner)
            total += learner.loss_of(query)[0] / 2
            adapted.restore()
        return total

    gradients, at, _ = gradient()
    assert float(at) == pytest.approx(float(value()), rel=1e-4)
    pairs = [
        (v, tf.convert_to_tensor(g))
        for v, g in zip(variables, gradients, strict=True)
        if g is not None
    ]
    assert len(pairs) > 0.8 * len(variables)
    length = float(tf.linalg.global_norm([g for _, g in pairs]))
    held, start, slopes = [v.numpy() for v, _ in pairs], float(value()), []
    # A steep loss curves within 1e-4; a change of 2e-3 is still far above float32's noise.
    step = min(1e-4, 2e-3 / length)
    for sign in (1, -1):
        for (v, g), was in zip(pairs, held, strict=True):
            v.assign(was + sign * step / length * g)
        slopes.append(sign * (float(value()) - start) / step)
    # Where a rectifier switches on support rows the adapted weights jump, on one side of it.
    return length, min(slopes, key=lambda slope: abs(slope - length))


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone_s_meta_gradient_is_its_loss_s_slope(name):
    length, along = slope({"backbone": {"name": name, **worlds.SMALL[name]}}, tasks="group:ad")
    assert length == pytest.approx(along, rel=CLOSE)


@pytest.mark.slow
def test_an_interaction_of_fields_and_a_pairwise_term_are_gone_through_too():
    length, along = slope(
        {
            "backbone": {"name": "mmoe", **worlds.SMALL["mmoe"]},
            "interaction": {"name": "cross", "layers": 1},
            "terms": ({"name": "pwiser", "weight": 0.1},),
        },
        inner_params="all",
    )
    assert length == pytest.approx(along, rel=CLOSE)


# --- the two stages --------------------------------------------------------------------------


def variables_of(model):
    """All but the running means of losses."""
    means = {v.ref() for metric in model.metrics for v in metric.variables}
    return [v for v in model.variables if v.ref() not in means]


class Spy(keras.callbacks.Callback):
    """What every variable holds at the end of each epoch, and the tables that train."""

    def __init__(self):
        super().__init__()
        self.ends, self.tables, self.steps = [], [], 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        model = getattr(self.model, "model", self.model)
        self.ends.append({v.ref(): v.numpy() for v in variables_of(model)})
        self.tables.append(len(model.trained_tables))


@pytest.mark.parametrize(
    "scope",
    [("attention", "towers"), pytest.param(("towers",), marks=pytest.mark.slow)],
)
def test_the_second_stage_moves_its_scope_and_nothing_else(scope):
    spy = Spy()
    trained = train(
        config(dataclasses.replace(META, finetune_scope=scope)), DATA, verbose=0, callbacks=(spy,)
    )
    model, (first, second) = trained.model, spy.ends
    assert [epoch["stage"] for epoch in trained.history] == [1, 2]
    assert spy.steps == 2 * STEPS and spy.tables[1] == 0 < spy.tables[0]
    layers = [model.heads, *(model.backbone.fine_tuned() if "attention" in scope else [])]
    free = {v.ref() for layer in (*layers, model.balancer) for v in layer.variables}
    moved = {ref for ref in first if not np.array_equal(first[ref], second[ref])}
    assert moved <= free
    assert len(moved) > 0.7 * len(free)
    # Moments of batch normalisation among them, of the towers alone.
    moments = {v.ref() for v in variables_of(model) if "moving_mean" in v.name}
    assert moments & moved and moments - free and not (moments - free) & moved
    assert len(model.trained_tables) == spy.tables[0]
    assert all(
        layer.trainable for layer in model.submodules if isinstance(layer, keras.layers.Layer)
    )


@pytest.mark.slow
def test_a_run_killed_in_either_stage_ends_where_an_unkilled_one_does(tmp_path):
    every = config(checkpoint_every=1)
    whole = train(every, DATA, verbose=0)
    for after in (2, STEPS + 2):
        folder = str(tmp_path / str(after))
        with pytest.raises(KeyboardInterrupt):
            train(every, DATA, checkpoint_dir=folder, verbose=0, callbacks=(Kill(after),))
        spy = Spy()
        resumed = train(every, DATA, checkpoint_dir=folder, verbose=0, callbacks=(spy,))
        assert spy.steps == 2 * STEPS - after
        for one, other in zip(*map(variables_of, (whole.model, resumed.model)), strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        assert resumed.best_epoch == whole.best_epoch


@pytest.mark.slow
def test_where_no_epoch_of_the_second_stage_is_better_the_first_one_s_weights_stay():
    spy = Spy()
    trained = train(
        config(dataclasses.replace(META, finetune_rate=20.0, finetune_epochs=2)),
        DATA,
        verbose=0,
        callbacks=(spy,),
    )
    assert [epoch["stage"] for epoch in trained.history] == [1, 2, 2]
    assert trained.best_epoch == 0
    for variable in variables_of(trained.model):
        np.testing.assert_array_equal(variable.numpy(), spy.ends[0][variable.ref()])


@pytest.mark.slow
def test_without_a_second_stage_there_is_none():
    trained = train(config(dataclasses.replace(META, finetune_epochs=0)), DATA, verbose=0)
    assert [epoch["stage"] for epoch in trained.history] == [1]


def test_a_second_stage_that_has_nothing_to_train_is_refused_before_the_first():
    spy = Spy()
    network = dataclasses.replace(NETWORK, backbone={"name": "mmoe", **worlds.SMALL["mmoe"]})
    experiment = config(dataclasses.replace(META, finetune_scope=("attention",)), network)
    with pytest.raises(SpecError, match=r"\('attention',\) leaves .* nothing to train"):
        train(experiment, DATA, verbose=0, callbacks=(spy,))
    assert spy.steps == 0


def test_what_never_trained_does_not_after_unfreezing():
    model = learner_of().model
    model.heads.logits["ctr"].trainable = model.embedding.trainable = False
    before = [v.ref() for v in model.trainable_variables]
    frozen = freeze_below(model, ("attention",))
    assert len(model.trainable_variables) < len(before)
    unfreeze(frozen)
    assert [v.ref() for v in model.trainable_variables] == before


@pytest.mark.slow
def test_what_is_served_is_the_plain_forward_pass_without_the_tasks_variances(tmp_path):
    preprocessor, data = worlds.packed(256, 64)
    backbone = {"name": "man", **worlds.SMALL["man"]}
    experiment = worlds.experiment(
        backbone=backbone, balancer={"name": "uncertainty"}, epochs=1, monitor="loss"
    )
    experiment = dataclasses.replace(experiment, meta=META)
    model = train(experiment, data, verbose=0).model
    (variances,) = model.balancer.trainable_variables
    variances.assign(tf.linspace(0.8125, 0.8750, variances.shape[0]))
    path = export(model, preprocessor, str(tmp_path))
    raw = worlds.rows(20, seed=5)
    raw = {name: raw[name] for name in worlds.PROBLEM.feature_columns()}
    expected = model(preprocessor(raw))
    held = tf.train.load_checkpoint(f"{path}/variables/variables")
    stored = [held.get_tensor(name) for name in held.get_variable_to_shape_map()]
    floats = [t for t in stored if getattr(t, "dtype", None) == np.float32]
    assert floats and not any(np.isin(variances.numpy(), t).all() for t in floats)
    apply = tf.saved_model.load(path).signatures["predict"]
    served = apply(**as_columns(apply, raw))
    for task, found in served.items():
        np.testing.assert_allclose(found, expected[task], atol=1e-5)


def as_columns(signature, raw):
    """Raw columns as a signature takes them: lists dense."""
    specs = signature.structured_input_signature[1]
    found = {}
    for name, spec in specs.items():
        value = raw[name]
        if isinstance(value, tf.RaggedTensor):
            value = value.to_tensor(default_value=b"" if value.dtype == tf.string else -1)
        found[name] = tf.cast(value, spec.dtype) if spec.dtype != tf.string else tf.constant(value)
    return found


# --- settings --------------------------------------------------------------------------------


def test_the_settings_come_back_from_json():
    meta = Meta(tasks="group:ad", task_rows=64, finetune_scope=["towers"], second_order=False)
    assert ExperimentConfig.from_json(config(meta).to_json()) == config(meta)
    assert ExperimentConfig.from_json(config(None).to_json()).meta is None
    changed = config(meta).replace_path("meta.inner_rate", 0.5)
    assert changed.meta == dataclasses.replace(meta, inner_rate=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "rnadom"}, "Did you mean 'random'"),
        ({"tasks": "group:"}, "none of"),
        ({"inner_params": "no_embeddings"}, "Did you mean 'no_embedding'"),
        ({"finetune_scope": "towers"}, r"must be several names: \('towers',\)"),
        ({"finetune_scope": ("tower",)}, "Did you mean 'towers'"),
        ({"finetune_scope": ()}, "finetune_epochs=0"),
        ({"tasks_per_step": 0}, "tasks_per_step=0 must be at least 1"),
        ({"inner_steps": 1.5}, "inner_steps=1.5 must be a whole number"),
        ({"task_rows": 1}, "task_rows=1 must be at least 2"),
        ({"inner_rate": -0.1}, "inner_rate=-0.1 must be at least 0"),
        ({"inner_rate": float("nan")}, "inner_rate=nan must be a finite number, at least 0"),
        ({"finetune_rate": 0.0}, "finetune_rate=0.0 must be above 0"),
    ],
)
def test_a_mistaken_setting_is_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        Meta(**settings)


def test_a_group_that_is_no_feature_with_one_id_is_refused():
    with pytest.raises(SpecError, match="Did you mean 'ad'"):
        config(Meta(tasks="group:add"))
    with pytest.raises(SpecError, match="'tags', which is no feature with one id"):
        dataclasses.replace(worlds.experiment(), meta=Meta(tasks="group:tags"))
