"""Data sets of clicks and conversions: features, labels, and rows in three splits.

The tables of several papers use them. To add one, write a `DataSet`: its features, its columns of
click and conversion, and a function that returns its rows in three splits. All arms of a paper
then run on it without changes.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.configs import census_income, simulated_ads
from tfmtl.data.table import read_table
from tfmtl.declare.features import Feature
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.metrics.tasks import auc, calibration, normalized_entropy
from tfmtl.simulator.impressions import impression_log
from tfmtl.simulator.world import draw_world

DAYS, VALIDATION_DAY, TEST_FROM = 10, 6, 7
SCORES = ("ctr", "ctcvr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of simulation and training.

    Args:
        impressions: Rows of the simulated log; six tenths train, three tenths test.
        epochs: Greatest number of passes over the training rows.
        papers_sizes: Whether networks have a paper's sizes on its own data sets.
    """

    impressions: int = 150_000
    epochs: int = 3
    papers_sizes: bool = True


QUICK = Sizes(impressions=24_000, epochs=1, papers_sizes=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """The rows of a data set, with its features and labels.

    Args:
        name: Its name in the tables.
        tables: Returns `train`, `validation` and `test` for a seed, sizes and a path. Rows that
            are read, not simulated, depend only on the path.
        features: Features of the models.
        click: Column with the click, 0 or 1.
        conversion: Column with the conversion, 0 or 1, which needs a click.
        clean_click: Column with the click before noise was added, if it is known.
        true: Columns of the true probabilities, by the score that estimates them.
        space: Name of a row, as in `ProblemSpec`.
        reads: Whether the rows are read from a path.
        model: Fields of `Model` that suit the data.
        training: Fields of `Training` that suit the data.
        preset: Name of the paper's settings in `tfmtl.datasets.presets`, if the data are its own.
        preparation: Name of the paper's preparation of raw files.
        elsewhere: Finds its rows in a folder that has no folder of its name; `None` if they are
            not there.
        first_rows: Returns some rows and the number of all, to estimate how long a run takes.
    """

    name: str
    tables: Callable[[int, Sizes, str | None], Mapping[str, pa.Table]]
    features: tuple[Feature, ...]
    click: str = "click"
    conversion: str = "conversion"
    clean_click: str | None = None
    true: Mapping[str, str] = dataclasses.field(default_factory=dict)
    space: str = "imp"
    reads: bool = False
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: str = ""
    preparation: str = ""
    elsewhere: Callable[[str], str | None] | None = None
    first_rows: Callable[[str], tuple[pa.Table, float]] | None = None

    def path_in(self, folder: str | None) -> str | None:
        """The path of its rows in the folder of `--data`; `None` if they are not there."""
        if not folder:
            return None
        path = os.path.join(folder, self.name)
        if os.path.isdir(path):
            return path
        return self.elsewhere(folder) if self.elsewhere is not None else None


def sets_of(options: Any, names: Iterable[str]) -> list[str]:
    """The data sets that `--sets` leaves: all of `names` by default, in their order.

    Raises:
        SpecError: A name of `--sets` is unknown.
    """
    return _left("--sets", getattr(options, "sets", None), names)


def models_of(options: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The models that `--models` leaves: all of `names` by default, in their order.

    Raises:
        SpecError: A name of `--models` is unknown.
    """
    return tuple(_left("--models", getattr(options, "models", None), names))


def _left(option: str, asked: Sequence[str] | None, names: Iterable[str]) -> list[str]:
    known = list(names)
    for name in asked or ():
        if name not in known:
            raise SpecError(
                f"{option} {name}: known are {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return [name for name in known if not asked or name in asked]


def some_rows(data: DataSet, sizes: Sizes, path: str | None) -> tuple[pa.Table, float]:
    """Some rows of a data set, and the number of its training rows (or an estimate).

    Args:
        data: The data set.
        sizes: Sizes of the run.
        path: Path of its rows, if they are read.
    """
    if data.first_rows is not None and path is not None:
        return data.first_rows(path)
    if data.reads:
        rows = data.tables(0, sizes, path)["train"]
        return rows.slice(0, 10_000), float(len(rows))
    small = dataclasses.replace(sizes, impressions=min(sizes.impressions, 10_000))
    return data.tables(0, small, path)["train"], 0.6 * sizes.impressions


def measures(data: DataSet, scores: Mapping[str, np.ndarray], test: pa.Table) -> dict[str, float]:
    """The figures of one arm on the test rows.

    `ctr/auc` is computed on logged clicks, `ctr/auc_clean` on clicks without noise, and
    `ctr/auc_bought` on conversions, ranked by the click score. Those with `true_` are expectations
    over labels drawn from the true probabilities; they vary less than a single draw.
    """
    figures: dict[str, float] = {}
    labels = {
        "ctr/auc": ("ctr", data.click),
        "ctr/auc_clean": ("ctr", data.clean_click),
        "ctr/auc_true": ("ctr", data.true.get("ctr")),
        "ctr/auc_bought": ("ctr", data.conversion),
        "ctr/auc_true_bought": ("ctr", data.true.get("ctcvr")),
        "ctcvr/auc": ("ctcvr", data.conversion),
        "ctcvr/auc_true": ("ctcvr", data.true.get("ctcvr")),
    }
    for name, (score, column) in labels.items():
        if column is not None and score in scores:
            figures[f"{name}@{data.space}"] = auc(test[column].to_numpy(), scores[score])
    for score, column in zip(SCORES, (data.click, data.conversion), strict=True):
        if score in scores:
            label = test[column].to_numpy()
            figures[f"{score}/calibration@{data.space}"] = calibration(label, scores[score])
            figures[f"{score}/ne@{data.space}"] = normalized_entropy(label, scores[score])
    return figures


def simulated_log(seed: int, sizes: Sizes) -> pa.Table:
    """A log of `DAYS` days; each seed has its own world."""
    world = draw_world(seed, days=DAYS)
    return impression_log(world, impressions=sizes.impressions, seed=seed, days=DAYS)


def by_day(log: pa.Table) -> dict[str, pa.Table]:
    """Splits a log by days: six for training, one for validation, three for test."""
    day = log["day"]
    return {
        "train": log.filter(pc.less(day, VALIDATION_DAY)),
        "validation": log.filter(pc.equal(day, VALIDATION_DAY)),
        "test": log.filter(pc.greater_equal(day, TEST_FROM)),
    }


@functools.lru_cache(maxsize=1)
def census_tables(path: str) -> dict[str, pa.Table]:
    """The rows of the census in three splits, with the columns of `with_funnel`."""
    spec = census_income.PROBLEM
    tables = read_table(path, spec, census_income.SOURCE, census_income.EXPERIMENT.split)
    return {name: with_funnel(table) for name, table in tables.items()}


def with_funnel(table: pa.Table) -> pa.Table:
    """Census rows with a click and a conversion: `married`, and `married_and_earns`.

    Neither of the census tasks implies the other, but a conversion needs a click. So the second
    label is defined to imply the first: ever married, and then ever married with earnings of over
    50,000 dollars.
    """
    income, marriage = census_income.PROBLEM.tasks
    married = pc.not_equal(table[marriage.label], marriage.positive)
    earns = pc.equal(table[income.label], income.positive)
    columns = {"married": married, "married_and_earns": pc.and_(married, earns)}
    for name, column in columns.items():
        table = table.append_column(name, pc.cast(column, pa.float32()))
    return table


SIMULATED = DataSet(
    name="simulated_ads",
    tables=lambda seed, sizes, path: by_day(simulated_log(seed, sizes)),
    features=simulated_ads.PROBLEM.features,
    true={"ctr": "true_ctr", "ctcvr": "true_ctcvr"},
    model={"dim": 8, "numeric_mode": "fieldwise", "l2": 1e-5},
    training={"batch_size": 2048, "learning_rate": 2e-3, "decay": "cosine"},
)
CENSUS = DataSet(
    name="census_income",
    tables=lambda seed, sizes, path: census_tables(path or ""),
    features=census_income.PROBLEM.features,
    click="married",
    conversion="married_and_earns",
    space="person",
    reads=True,
    model={"dim": 8, "l2": 1e-5},
    training={"batch_size": 1024, "learning_rate": 3e-3, "decay": "cosine"},
)
