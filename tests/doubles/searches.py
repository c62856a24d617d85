"""A small problem with two tasks, and a small space, for tests of the search."""

import dataclasses

import numpy as np

from tfmtl.automtl.bilevel import Bilevel, Schedule, supernet_model
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import by_row_number
from tfmtl.features.rows import ArrayRows, PackedData

SIZE, FIELDS = 20, 3
PROBLEM = ProblemSpec(
    features=tuple(
        categorical(name, encoding="identity", size=SIZE) for name in ("user", "ad", "slot")
    ),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
)
TABLE_ROWS = {name: SIZE + 2 for name in ("user", "ad", "slot")}
SPACE = {
    "interactions": (
        ("skip", {"name": "skip"}),
        ("product-inner", {"name": "product_inner"}),
        ("cross-1", {"name": "cross", "layers": 1}),
    ),
    "poolings": (("sum", {"name": "sum"}), ("linear", {"name": "linear"})),
    "hidden": (
        ("skip", {"name": "skip"}),
        ("gate", {"name": "gate"}),
        ("mlp-8", {"name": "mlp", "units": 8}),
    ),
}


def rows(count: int, seed: int, label=None) -> ArrayRows:
    """Packed rows; by default the labels depend on user and ad."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, SIZE + 2, [count, FIELDS]).astype(np.int32)
    if label is None:
        taste = np.random.default_rng(99).normal(size=(2, SIZE + 2, SIZE + 2))
        logits = 2 * taste[:, ids[:, 0], ids[:, 1]].T
        labels = rng.random([count, 2]) < 1 / (1 + np.exp(-logits))
    else:
        labels = label(ids, rng)
    return ArrayRows(
        {
            "ids_context": ids,
            LABELS: labels.astype(np.float32),
            WEIGHTS: np.ones([count, 2], np.float32),
        }
    )


def data(train: int = 192, validation: int = 96) -> PackedData:
    """Training and validation rows from the same distribution."""
    return PackedData(rows(train, 1), rows(validation, 2), TABLE_ROWS)


def declared(**changes) -> AutoMTL:
    """A search whose network has a few hundred weights."""
    settings = {"num_experts": 2, "num_blocks": 1, "tower_units": (4,), "epochs": 3}
    return AutoMTL(**{**settings, **SPACE, "warm_up_epochs": 1, **changes})


def experiment(search: AutoMTL | None = None, **changes) -> ExperimentConfig:
    """An experiment with a search; `changes` are fields of `Model` and `Training`."""
    model = {k: v for k, v in changes.items() if k in Model.__dataclass_fields__}
    training = {k: v for k, v in changes.items() if k in Training.__dataclass_fields__}
    return ExperimentConfig(
        name="small",
        problem=PROBLEM,
        split=by_row_number(),
        model=Model(**{"dim": 8} | model),
        training=Training(**{"batch_size": 32, "epochs": 2} | training),
        search=search or declared(),
    )


def bilevel(search: AutoMTL | None = None, *, steps: int = 4, **changes) -> Bilevel:
    """The trainer of a supernet, ready for its first iteration."""
    config = experiment(search, **changes)
    model = supernet_model(config, config.search, TABLE_ROWS)
    model(next(iter(rows(4, 0).batches(4))))
    trainer = Bilevel(model, config.search, Schedule(config.search, steps))
    model.optimizer.build(model.dense_variables)
    model.embedding_optimizer.build(model.trained_tables)
    return trainer


def batch(count: int = 32, seed: int = 0, **changes) -> dict:
    """One batch of rows."""
    return next(iter(rows(count, seed, **changes).batches(count)))


def replaced(config: ExperimentConfig, **changes) -> ExperimentConfig:
    """The experiment with other settings of its search."""
    return dataclasses.replace(config, search=dataclasses.replace(config.search, **changes))
