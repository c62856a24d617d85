"""Any configuration ends in a `SpecError` that names a field, or in a model that trains a step."""

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.worlds import SMALL, rows
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_hash
from tfmtl.errors import DataError, SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

NAN = float("nan")
PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        categorical("scene", side="ad"),
        numerical("age", side="ad", encoding="quantile", bins=4),
        numerical("price"),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
    ),
    scene="scene",
)
EXPERIMENT = ExperimentConfig(
    name="any",
    problem=PROBLEM,
    split=by_hash("user"),
    model=Model(backbone={"name": "shared_bottom", "bottom_units": (4,)}, dim=4, tower_units=(4,)),
    training=Training(batch_size=16),
)

WRONG = (None, True, 0, -1, 2.5, NAN, math.inf, "8", "", "no", (), (0,), ((4,),), {}, object())
UNITS = ((4,), (4, 2), (1,))
RATES = (1e-3, 0.1, 1)
BACKBONES = tuple({"name": name, **arguments} for name, arguments in SMALL.items())
RIGHT = {
    "model.dim": (1, 2, 4),
    "model.numeric_mode": ("joint", "fieldwise"),
    "model.numeric_units": ((), *UNITS),
    "model.tower_units": (None, (), *UNITS),
    "model.tower_dropout": (0, 0.5),
    "model.tower_batch_norm": (True, False),
    "model.conv_semantics": (None, "ctcvr_direct", "cvr_click", "esmm", "mtms", "mtms_literal"),
    "model.l2": (0, 1e-3),
    "model.loss_reduction": ("masked", "batch"),
    "model.backbone": BACKBONES,
    "model.interaction": (None, "cross", "gate_bit", "skip", {"name": "self_attention"}),
    "model.balancer": ("fixed", "uncertainty", "dwa", "pcgrad", "mgda", "gradnorm", "famo"),
    "model.terms": ((), ("order_calibration",), ("pwiser",)),
    "training.epochs": (1, 3),
    "training.batch_size": (1, 16),
    "training.learning_rate": RATES,
    "training.embedding_learning_rate": (None, *RATES),
    "training.decay": ("none", "cosine"),
    "training.optimizer": ("adam", "adagrad", "sgd"),
    "training.embedding_optimizer": ("rowwise_adam", "rowwise_adagrad"),
    "training.patience": (0, 2),
    "training.monitor": ("mean_auc", "loss", "cvr/auc@click"),
    "training.checkpoint_every": (1, 100),
    "training.seed": (0, 7),
    "problem.features.0.dim": (None, 2, 4),
    "problem.features.2.dim": (None, 3),
    "problem.features.3.indicator": (True, False),
    "problem.tasks.0.served": (True, False),
    "problem.tasks.0.positive_weight": (1.0, 3, "balanced_sqrt"),
    "problem.tasks.1.loss": ("cross_entropy", "focal", {"name": "poly1", "epsilon": 1.0}),
    "problem.tasks.1.weight": (None,),
    "split.shares": ((0.8, 0.1, 0.1), (0.5, 0.25, 0.25)),
    "evaluation.slices": ((), ("scene",)),
    "evaluation.max_fall": (0, 0.1),
}
ARGUMENTS = (
    *("num_experts", "expert_units", "bottom_units", "num_specific", "num_shared", "gate_hidden"),
    *("dropout", "batch_norm", "units", "aux_units", "width", "gate_bias", "mode", "direction"),
    *("stop_gradient", "chain", "residual", "keep_fields", "layers", "heads", "task_weights"),
)

changes = st.lists(
    st.one_of(
        st.sampled_from(sorted(RIGHT)).flatmap(
            lambda path: st.tuples(st.just(path), st.sampled_from(RIGHT[path]))
        ),
        st.sampled_from(sorted(RIGHT)).flatmap(
            lambda path: st.tuples(st.just(path), st.sampled_from(RIGHT[path] * 6 + WRONG))
        ),
        st.sampled_from(BACKBONES).flatmap(
            lambda config: st.tuples(
                st.just("model.backbone"),
                st.tuples(
                    st.sampled_from(sorted(set(ARGUMENTS) & (set(config) | {"dropout"}))),
                    st.sampled_from((*WRONG, *UNITS, (UNITS[0],), 2, 0.5, 1.5)),
                ).map(lambda argument: {**config, argument[0]: argument[1]}),
            )
        ),
    ),
    min_size=1,
    max_size=4,
)
NAMED = (
    "model",
    "training",
    "problem",
    "split",
    "evaluation",
    "task ",
    "categorical ",
    "numerical ",
)


def one_step(experiment):
    preprocessor = Preprocessor(experiment.problem)
    columns = {n: v for n, v in rows(32).items() if n in experiment.problem.columns()}
    packed = ArrayRows(preprocessor.fit(columns))
    batch = next(iter(packed.batches(16)))
    model = MultiTaskModel.build_from(
        experiment.problem, preprocessor.table_rows(), experiment.model
    )
    compile_model(model, experiment.training)
    model(batch)
    return {name: float(value) for name, value in model.train_step(batch).items()}


def check(made):
    experiment = EXPERIMENT
    try:
        for path, value in made:
            experiment = experiment.replace_path(path, value)
        again = ExperimentConfig.from_json(experiment.to_json())
    except SpecError as error:
        assert any(name in str(error) for name in NAMED), error
        return
    assert again == experiment
    lacking = sorted(set(experiment.problem.columns()) - set(rows(32)))
    if lacking:  # A weight may be any column; that the rows lack it is an error of the data.
        with pytest.raises(DataError, match=re.escape(repr(lacking[0]))):
            one_step(experiment)
        return
    losses = one_step(experiment)
    assert losses and all(map(math.isfinite, losses.values())), losses


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(changes)
def test_a_configuration_is_refused_by_name_or_trains_one_step(made):
    check(made)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes)
def test_two_thousand_configurations_are_refused_by_name_or_train_one_step(made):
    check(made)
