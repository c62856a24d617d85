"""A small ads log with every kind of feature, for tests that need a whole problem."""

import numpy as np
import tensorflow as tf

from tests.doubles import small_parts
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    count_encoding,
    numerical,
    regression,
    target_encoding,
)
from tfmtl.declare.split import by_hash
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData

CTR = binary("ctr", label="click")
CVR = binary("cvr", label="conversion", observed_if="click")
CTCVR = binary("ctcvr", label="conversion")
CQS = regression("cqs", label="quality")

PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user", dim=4),
        categorical("ad", side="ad", min_count=2),
        categorical("slot", encoding="identity", size=3),
        categorical("query", encoding="hash", size=20),
        categorical("scene"),
        categorical("tags", side="ad", max_values=3, weights="tag_weights"),
        numerical("age", side="user", encoding="quantile", bins=5),
        numerical("price", side="ad", encoding="log", indicator=True),
        numerical("hour", encoding="piecewise", bins=4),
        count_encoding("ad", side="ad"),
        target_encoding("ad", side="ad", task="ctr"),
    ),
    tasks=(CTR, CVR, CTCVR, CQS),
    scene="scene",
    request_id="request",
)


def rows(count: int, seed: int = 0) -> dict:
    """Raw columns of `count` impressions; clicks depend on user and ad."""
    rng = np.random.default_rng(seed)
    user, ad = rng.integers(0, 20, count), rng.integers(0, 15, count)
    taste = np.random.default_rng(99).normal(size=(20, 15))
    click = rng.random(count) < 1 / (1 + np.exp(1 - 1.5 * taste[user, ad]))
    conversion = click & (rng.random(count) < 1 / (1 + np.exp(1 - taste[user, ad])))
    lengths = rng.integers(0, 5, count)
    total = int(lengths.sum())
    price = rng.lognormal(size=count).astype(np.float32)
    price[::17] = np.nan
    return {
        "user": np.char.add("u", user.astype(str)),
        "ad": np.char.add("a", ad.astype(str)),
        "slot": rng.integers(0, 3, count),
        "query": np.char.add("q", rng.integers(0, 50, count).astype(str)),
        "tags": tf.RaggedTensor.from_row_lengths(
            np.char.add("t", rng.integers(0, 6, total).astype(str)), lengths
        ),
        "tag_weights": tf.RaggedTensor.from_row_lengths(
            rng.random(total).astype(np.float32), lengths
        ),
        "age": rng.normal(40, 10, count).astype(np.float32),
        "price": price,
        "hour": rng.uniform(0, 24, count).astype(np.float32),
        "click": click.astype(np.float32),
        "conversion": conversion.astype(np.float32),
        "quality": (5 + 3 * taste[user, ad] + rng.normal(size=count)).astype(np.float32),
        "scene": np.where(rng.random(count) < 0.5, "feed", "search"),
        "request": np.char.add("r", (np.arange(count) // 4).astype(str)),
    }


def experiment(**changes) -> ExperimentConfig:
    """A small experiment on `PROBLEM`; `changes` are fields of `Model` and `Training`."""
    model = {k: v for k, v in changes.items() if k in Model.__dataclass_fields__}
    towers = towers_of(model.get("backbone", {}).get("name"))
    training = {k: v for k, v in changes.items() if k in Training.__dataclass_fields__}
    return ExperimentConfig(
        name="small",
        problem=PROBLEM,
        split=by_hash("request"),
        model=Model(**{"dim": 8, "tower_units": towers} | model),
        training=Training(**{"epochs": 2, "batch_size": 64} | training),
    )


def towers_of(backbone: str | None, units: tuple[int, ...] = (8,)) -> tuple[int, ...]:
    """Widths of the towers above a backbone; empty for a backbone whose scenes share nothing."""
    return () if backbone == "per_scene" else units


def packed(train: int = 640, validation: int = 256) -> tuple[Preprocessor, PackedData]:
    """A fitted preprocessor and packed rows."""
    preprocessor = Preprocessor(PROBLEM)
    first = ArrayRows(preprocessor.fit(rows(train)))
    second = ArrayRows(preprocessor(rows(validation, seed=1)))
    return preprocessor, PackedData(first, second, preprocessor.table_rows())


SMALL = small_parts.SMALL["backbone"]
