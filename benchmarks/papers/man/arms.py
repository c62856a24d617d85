"""The arms of MAN's tables: models and data sets, and the measurement of one seed.

To add a data set, add a `DataSet` of `benchmarks.funnels` to `DATA_SETS`; all models then run on
it without changes. Ali-CCP, the paper's own, is read from its raw files by `benchmarks.datasets`.
The settings are the paper's (section 4.2): experts of 256 and 128 units, eight
of them, or four shared and four per task; towers of 128, 16 and 32; Adam at 0.001 on batches of
2,048; decay of 1e-6. ESMM and AITM have no experts and use the settings of their authors. The
paper leaves the following open, and it is our choice:

- PLE has two levels, of 256 and of 128. With one level it would be CGC, which is MAN without
  attention.
- A meta-step reads 2,048 rows, four tasks of 512, so that an update uses as many rows as in any
  other arm. Half of them are for adapting, half for the loss.
- All arms stop after two epochs without a better mean AUC of clicks and conversions on validation
  rows, and keep the weights of the best epoch. LightGBM's rounds are chosen there too. The same
  mean AUC chooses its number of leaves and which ids are categories: with too many, it would be a
  weak baseline. Test rows are predicted once.
- The width of embeddings is that of the data set, the same for all models.

The conversion head is `ctcvr_direct`, P(conversion | impression), in all models but ESMM, whose
product is the same probability. "CVR AUC" in the paper's tables is over all impressions,
`ctcvr/auc@imp` here.

`no_embedding` is the second reading of the paper's "without meta-att". The name of the row says
that meta-learning and attention are left out; the text says that the embedding is. Here each id
becomes one number, its hash, which is uniformly distributed. The rest of MAN stays the same.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tf_keras as keras

from benchmarks.datasets import ALI_CCP
from benchmarks.funnels import CENSUS, SIMULATED, DataSet, Sizes, measures
from tfmtl.boosting.train import train_boosters
from tfmtl.data.hashing import hash_text, share
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.features import Categorical, Feature, Numerical
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.declare.split import whole
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.run import train

FULL = Sizes(impressions=150_000, epochs=15)
QUICK = Sizes(impressions=16_000, epochs=1)
ROWS, TASKS_PER_STEP = 2_048, 4
L2 = 1e-6
META = Meta(
    tasks="random",
    tasks_per_step=TASKS_PER_STEP,
    task_rows=ROWS // TASKS_PER_STEP,
    inner_rate=2e-4,
    second_order=True,
    finetune_rate=1e-4,
    finetune_patience=2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees:
    """LightGBM with one booster per task, both trained on all impressions.

    Args:
        settings: Arguments of `train_boosters`; validation chooses between several.
    """

    settings: tuple[Mapping[str, Any], ...] = ({},)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the tables.

    Args:
        backbone: See `Model`.
        tower_units: Widths of each task's tower; the backbone's default if `None`.
        balancer: See `Model`.
        product: Whether the conversion prediction is pCTR·pCVR and not a separate head.
        meta: Whether the network is meta-trained.
        embedded: Whether ids are embedded; otherwise each id is one number.
    """

    backbone: Mapping[str, Any]
    tower_units: tuple[int, ...] | None = (128, 16, 32)
    balancer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "fixed"})
    product: bool = False
    meta: bool = False
    embedded: bool = True


EXPERTS = {"num_experts": 8, "expert_units": (256, 128)}
CGC = {"name": "cgc", "num_specific": 4, "num_shared": 4, "expert_units": (256, 128)}
MAN = Network(
    backbone={**CGC, "name": "man", "expert_units": ((256, 128),)},
    balancer={"name": "uncertainty", "form": "paper_eq3"},
    meta=True,
)
WITHOUT_ATTENTION = dataclasses.replace(MAN, backbone=CGC)

MODELS: Mapping[str, Network | Trees] = {
    # One thread: if other work uses the cores, several threads mostly wait for each other.
    "lightgbm": Trees(
        settings=tuple(
            {"num_threads": 1, "num_leaves": leaves, "most_categories": most}
            for most, leaves in ((5_000, 63), (100, 63), (100, 31), (100, 15), (100, 7))
        )
    ),
    "omoe": Network(backbone={"name": "omoe", **EXPERTS}),
    "mmoe": Network(backbone={"name": "mmoe", **EXPERTS}),
    "esmm": Network(backbone={"name": "esmm"}, tower_units=None, product=True),
    "ple": Network(
        backbone={
            "name": "ple",
            "num_specific": 4,
            "num_shared": 4,
            "expert_units": ((256,), (128,)),
        }
    ),
    "aitm": Network(
        backbone={"name": "aitm", "bottom_units": (128, 64, 32), "dropout": (0.1, 0.3, 0.3)},
        tower_units=None,
    ),
    "man": MAN,
    "without_meta": dataclasses.replace(MAN, meta=False),
    "without_attention": WITHOUT_ATTENTION,
    "without_both": dataclasses.replace(WITHOUT_ATTENTION, meta=False),
    "no_embedding": dataclasses.replace(MAN, embedded=False),
}
DATA_SETS: Mapping[str, DataSet] = {data.name: data for data in (SIMULATED, CENSUS, ALI_CCP)}


def problem(data: DataSet, *, product: bool = False, embedded: bool = True) -> ProblemSpec:
    """Clicks and conversions of all impressions; for a product also the conversion after a click.

    Args:
        data: The data set.
        product: Whether there is a task for the conversion after a click, which is not judged.
        embedded: Whether ids are categorical; otherwise they are the numbers that `hashed` adds.
    """
    between = (binary("cvr", label=data.conversion, observed_if=data.click, served=False),)
    return ProblemSpec(
        features=data.features if embedded else numbers_of(data.features),
        tasks=(
            binary("ctr", label=data.click),
            *(between if product else ()),
            binary("ctcvr", label=data.conversion),
        ),
        space=data.space,
    )


def experiment(data: DataSet, model: str, seed: int, sizes: Sizes) -> ExperimentConfig:
    """The experiment of an arm that is a network.

    Args:
        data: The data set.
        model: A name in `MODELS`.
        seed: Seed of the initial weights and of the order of rows.
        sizes: Gives the greatest number of epochs.
    """
    network = MODELS[model]
    assert isinstance(network, Network)
    model_fields = {key: value for key, value in data.model.items() if key != "l2"}
    if not network.embedded:
        # Numbers are not projected jointly: each field is its number times a vector.
        model_fields["numeric_mode"] = "fieldwise"
    meta = dataclasses.replace(META, finetune_epochs=sizes.epochs) if network.meta else None
    return ExperimentConfig(
        name=f"{data.name}_{model}",
        problem=problem(data, product=network.product, embedded=network.embedded),
        split=whole(),
        model=Model(
            backbone=network.backbone,
            tower_units=network.tower_units,
            balancer=network.balancer,
            l2=L2,
            **model_fields,
        ),
        training=Training(
            epochs=sizes.epochs, batch_size=ROWS, learning_rate=1e-3, patience=2, seed=seed
        ),
        meta=meta,
    )


Figures = dict[str, float]
Remember = Callable[[str, Callable[[], Figures]], Figures]


def study(
    data: DataSet,
    seed: int,
    sizes: Sizes,
    path: str | None = None,
    *,
    models: Iterable[str] = tuple(MODELS),
    remember: Remember = lambda name, make: make(),
    trained: Callable[[], object] = lambda: None,
) -> dict[str, Figures]:
    """Trains models on one seed's rows.

    Args:
        data: The data set.
        seed: Seed of the models, and of the rows if they are simulated.
        sizes: Sizes of the run.
        path: Path of the rows, if they are read.
        models: Names in `MODELS`.
        remember: Returns a model's kept figures, or makes and keeps them.
        trained: Called after each model.

    Returns:
        Test figures by model and metric, and `epochs`, the number of epochs (or trees) that
        validation chose. If the truth is known, its figures are `truth`.
    """
    rows = _Rows(data, seed, sizes, path)
    levels = {}
    for name in models:
        levels[name] = remember(name, functools.partial(_figures, rows, name))
        trained()
    if data.true:
        levels["truth"] = remember("truth", rows.truth)
    return levels


def settings(data: DataSet, model: str, seed: int, sizes: Sizes) -> dict[str, Any]:
    """All that an arm's figures depend on besides code and rows, as plain data."""
    arm = MODELS[model]
    if isinstance(arm, Trees):
        return {"problem": problem(data).to_json(), "settings": [dict(s) for s in arm.settings]}
    return {"experiment": experiment(data, model, seed, sizes).to_json()}


def epoch_seconds(data: DataSet, model: str, rows: pa.Table, total: float) -> float:
    """Seconds that an epoch of `total` rows takes here, by the times of a short and a longer one.

    Args:
        data: The data set.
        model: A name in `MODELS`.
        rows: Some of its rows.
        total: Number of training rows.
    """
    arm = MODELS[model]
    if isinstance(arm, Trees):
        return math.nan

    def seconds(steps: int) -> float:
        keras.backend.clear_session()
        repeated = rows.take(np.arange(steps * ROWS) % len(rows))
        tables = {"train": repeated, "validation": rows.slice(0, 64), "test": rows.slice(0, 64)}
        ready = prepare(problem(data, product=arm.product), tables)
        declared = experiment(data, model, 1, Sizes(epochs=1))
        declared = dataclasses.replace(
            declared, meta=None, problem=problem(data, product=arm.product)
        )
        start = time.perf_counter()
        train(declared, ready.data, verbose=0)
        return time.perf_counter() - start

    few, more = 2, 6
    per_step = max(0.0, (seconds(more) - seconds(few)) / (more - few))
    return per_step * total / ROWS


class _Rows:
    """One seed's rows, which are read and packed at their first use."""

    def __init__(self, data: DataSet, seed: int, sizes: Sizes, path: str | None) -> None:
        self.data, self.seed, self.sizes, self.path = data, seed, sizes, path
        self.ready: dict[tuple[bool, bool], Prepared] = {}

    @functools.cached_property
    def tables(self) -> dict[str, pa.Table]:
        return dict(self.data.tables(self.seed, self.sizes, self.path))

    def prepared(self, product: bool, embedded: bool) -> Prepared:
        kind = product, embedded
        if kind not in self.ready:
            tables = self.tables if embedded else hashed(self.data.features, self.tables)
            spec = problem(self.data, product=product, embedded=embedded)
            self.ready[kind] = prepare(spec, tables)
        return self.ready[kind]

    def truth(self) -> Figures:
        test = self.tables["test"]
        scores = {score: test[column].to_numpy() for score, column in self.data.true.items()}
        return measures(self.data, scores, test)


def _figures(rows: _Rows, name: str) -> Figures:
    arm = MODELS[name]
    if isinstance(arm, Trees):
        scores, length = _trees(rows.data, arm, rows.tables, rows.seed)
    else:
        # Without this, Keras keeps all graphs of earlier models in memory.
        keras.backend.clear_session()
        ready = rows.prepared(arm.product, arm.embedded)
        result = train(experiment(rows.data, name, rows.seed, rows.sizes), ready.data, verbose=0)
        scores = result.model.predict_rows(ready.test.batches(1 << 14)).predictions
        length = result.best_epoch + 1
    return {**measures(rows.data, scores, rows.tables["test"]), "epochs": float(length)}


def _trees(
    data: DataSet, arm: Trees, tables: Mapping[str, pa.Table], seed: int
) -> tuple[dict[str, np.ndarray], float]:
    seen = {split: tables[split] for split in ("train", "validation")}
    tried = [
        train_boosters(problem(data), seen, seed=seed, verbose=0, **settings)
        for settings in arm.settings
    ]
    boosters = max(tried, key=lambda one: one.evaluate(seen["validation"])["mean_auc"])
    rounds = boosters.rounds.values()
    return boosters.predict(tables["test"]), sum(rounds) / len(rounds)


def numbers_of(features: Iterable[Feature]) -> tuple[Numerical, ...]:
    """The features as numbers only; ids use the columns that `hashed` adds."""
    numbers = []
    for feature in features:
        if isinstance(feature, Categorical):
            numbers.append(numerical(feature.name, column=_hash_name(feature), side=feature.side))
        elif isinstance(feature, Numerical):
            # A quantile bucket is an id, and a piecewise encoding has many inputs.
            name = feature.encoding["name"]
            kept = name if name in ("standard", "log") else "standard"
            numbers.append(
                numerical(feature.name, column=feature.column, side=feature.side, encoding=kept)
            )
        else:
            raise ValueError(
                f"feature {feature.name!r} is a {feature.kind}; only ids and numbers are made "
                "plain numbers."
            )
    return tuple(numbers)


def hashed(features: Iterable[Feature], tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables with one number per feature of ids: its hash in `[0, 1)`.

    The number of a list is the mean of its values' hashes. A missing value gives a missing number.
    """
    made = dict(tables)
    for feature in (f for f in features if isinstance(f, Categorical)):
        for split, table in made.items():
            column = table[feature.column].combine_chunks()
            numbers = pa.array(_shares(column, feature.name), from_pandas=True)
            made[split] = table.append_column(_hash_name(feature), pc.cast(numbers, pa.float32()))
    return made


def _shares(column: pa.Array, name: str) -> np.ndarray:
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        shares = share(hash_text(column.cast(pa.string()), salt=name))
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), shares, np.nan)
    values = share(hash_text(pc.list_flatten(column).cast(pa.string()), salt=name))
    owners = pc.list_parent_indices(column).to_numpy()
    totals, counts = (np.bincount(owners, w, len(column)) for w in (values, None))
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _hash_name(feature: Categorical) -> str:
    return f"{feature.name}_hash"
