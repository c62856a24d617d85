"""The arms of MAN's tables as data: models and data sets, and how one seed is measured.

A further data set is a `DataSet` of `benchmarks.funnels` in `DATA_SETS`; all models then run on
it as they are. Settings are the paper's (section 4.2): experts of 256 and 128, eight of them or
four shared and four of each task, towers of 128, 16 and 32, Adam at 0.001 on batches of 2,048,
decay of 1e-6. ESMM and AITM have no experts and keep their authors' own. What it leaves open is
our choice:

- PLE has two levels, of 256 and of 128: of one it would be CGC, which is MAN without attention.
- A meta-step reads 2,048 rows, four tasks of 512, so that an update has read as many rows as any
  other arm's; half of them adapt and half judge.
- All arms stop on validation after two epochs without a better mean AUC of clicks and conversions,
  and have the weights of the best. LightGBM's rounds are chosen there too, and by the same mean AUC
  its leaves and which ids are categories: too many make a baseline that anything beats. Test rows
  are predicted once.
- Embeddings have the data set's own width, the same for all.

The conversion head is `ctcvr_direct`, P(conversion | impression), in all but ESMM, whose product is
the same probability: "CVR AUC" in the paper's tables is of all impressions, `ctcvr/auc@imp` here.

`no_embedding` is the other reading of the paper's "without meta-att", whose row's name says that
meta-learning and attention are left out, and whose text that the embedding is: each id becomes a
number, its hash, as evenly spread as the ids are, and MAN is else as it was.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tf_keras as keras

from benchmarks.funnels import CENSUS, SIMULATED, DataSet, Sizes, measures
from tfmtl.boosting.boosters import train_boosters
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
    """LightGBM, a booster a task, both on all impressions.

    Args:
        settings: As `train_boosters` takes them; of several, validation chooses.
    """

    settings: tuple[Mapping[str, Any], ...] = ({},)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the tables.

    Args:
        backbone: As `Model` takes it.
        tower_units: Widths of each task's tower; the backbone's own if `None`.
        balancer: As `Model` takes it.
        product: Whether conversions are pCTR·pCVR, and not a head of their own.
        meta: Whether it is meta-trained.
        embedded: Whether ids are embedded; else each is one number.
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
    # One thread: where other work has the cores, several wait for one another most of the time.
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
DATA_SETS: Mapping[str, DataSet] = {data.name: data for data in (SIMULATED, CENSUS)}


def problem(data: DataSet, *, product: bool = False, embedded: bool = True) -> ProblemSpec:
    """Clicks and conversions of all impressions; for a product the factor between them too.

    Args:
        data: Its columns.
        product: Whether there is the conversion of a click, which is not judged.
        embedded: Whether ids are ids; else numbers of the columns that `hashed` adds.
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
    """One arm that is a network.

    Args:
        data: Its rows.
        model: A name of `MODELS`.
        seed: Of initial weights and the order of rows.
        sizes: How long it trains at most.
    """
    network = MODELS[model]
    assert isinstance(network, Network)
    own = {key: value for key, value in data.model.items() if key != "l2"}
    if not network.embedded:
        # No projection of all numbers to a few: a field is its number times a vector.
        own["numeric_mode"] = "fieldwise"
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
            **own,
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
        seed: Of the rows, where they are simulated, and of the models.
        sizes: How much.
        path: Where the rows are read, where they are.
        models: Names of `MODELS`.
        remember: Gives a model's figures, made now or before.
        trained: Called after each.

    Returns:
        Test figures by model and metric, and `epochs`, how many passes (or trees) validation
        chose; where the truth is known, its own as `truth`.
    """
    rows = _Rows(data, seed, sizes, path)
    levels = {}
    for name in models:
        levels[name] = remember(name, functools.partial(_figures, rows, name))
        trained()
    if data.true:
        levels["truth"] = remember("truth", rows.truth)
    return levels


class _Rows:
    """One seed's rows, read and packed when they are first asked for."""

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
        # Keras keeps every graph it has built.
        keras.backend.clear_session()
        ready = rows.prepared(arm.product, arm.embedded)
        found = train(experiment(rows.data, name, rows.seed, rows.sizes), ready.data, verbose=0)
        scores = found.model.predict_rows(ready.test.batches(1 << 14)).predictions
        length = found.best_epoch + 1
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
    """The features as numbers alone: those of ids by the columns that `hashed` adds."""
    found = []
    for feature in features:
        if isinstance(feature, Categorical):
            found.append(numerical(feature.name, column=_hash_name(feature), side=feature.side))
        elif isinstance(feature, Numerical):
            # A quantile's bucket is an id, and a piecewise encoding is of many inputs.
            kept = feature.encoding if feature.encoding in ("standard", "log") else "standard"
            found.append(
                numerical(feature.name, column=feature.column, side=feature.side, encoding=kept)
            )
        else:
            raise ValueError(
                f"feature {feature.name!r} is a {feature.kind}; only ids and numbers are made "
                "plain numbers."
            )
    return tuple(found)


def hashed(features: Iterable[Feature], tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """The tables with a number for each feature of ids: its hash in `[0, 1)`.

    A list is the mean of its values' hashes, and a missing value a missing number.
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
