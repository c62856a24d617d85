"""Training-serving skew: the same rows as training read them and as requests sent them.

The rows come from the files that training reads, with its conversions of text. The requests come
from a log of what was sent to the served model. Both go through a graph, and raw values, features
and predictions are compared column by column. A difference that no feature shows, such as another
spelling of a missing value that the graph knows, is reported and does not count.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.data.columns import as_arrow, declared
from tfmtl.data.texts import text_of
from tfmtl.data.types import ABSENT
from tfmtl.declare.features import Column
from tfmtl.declare.layout import layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError, did_you_mean
from tfmtl.features.raw import dense_columns, example_spec
from tfmtl.serving.export import to_examples
from tfmtl.serving.skew_causes import cause_of
from tfmtl.text import aligned

Packed = Mapping[str, NDArray[Any]]
Graph = Callable[[list[bytes]], tuple[Packed, Packed]]
"""Serialised tf.Examples to features and predictions."""

EXAMPLES = 3
BATCH = 2048


@dataclasses.dataclass(frozen=True)
class ColumnSkew:
    """One raw column, feature or task that differs.

    Args:
        kind: `column`, `feature` or `prediction`.
        name: Its name.
        differing: Rows that differ.
        rows: Rows that were compared.
        examples: Pairs (training, serving) of values that differ.
        cause: What such a difference usually comes from; empty where it is not known.
        largest: The largest difference of numbers.
    """

    kind: str
    name: str
    differing: int
    rows: int
    examples: tuple[tuple[Any, Any], ...] = ()
    cause: str = ""
    largest: float = 0.0


@dataclasses.dataclass(frozen=True)
class SkewReport:
    """What differs between training and serving.

    Args:
        rows: Rows that both sides have.
        unmatched: Requests' rows that the training files lack.
        columns: What differs, raw columns first, then features and predictions.
    """

    rows: int
    unmatched: int
    columns: tuple[ColumnSkew, ...]

    @property
    def skewed(self) -> bool:
        """Whether a feature or a prediction differs."""
        return any(skew.kind != "column" for skew in self.columns)

    def of(self, kind: str) -> dict[str, ColumnSkew]:
        """What differs of one kind, by name."""
        return {skew.name: skew for skew in self.columns if skew.kind == kind}

    def describe(self) -> str:
        """The report in a few lines of text."""
        lines = [f"{self.rows:,} rows compared, {self.unmatched:,} requested rows not in training."]
        if not self.columns:
            return "\n".join([*lines, "Training and serving agree."])
        table = [("", "name", "rows that differ", "training | serving", "cause")]
        for skew in self.columns:
            share = f"{skew.differing:,} of {skew.rows:,}"
            pairs = "; ".join(f"{one!r} | {other!r}" for one, other in skew.examples)
            table.append((skew.kind, skew.name, share, pairs, skew.cause))
        lines += [line.rstrip() for line in aligned(table, left=5)]
        verdict = "Skew: features differ." if self.skewed else "No feature differs."
        return "\n".join([*lines, verdict])


def skew(
    served: str,
    requests: Any,
    rows: Any,
    problem: ProblemSpec,
    *,
    key: Sequence[str] = (),
    training: Graph | None = None,
    null_values: Sequence[str] = ("",),
    tolerance: float = 1e-5,
) -> SkewReport:
    """Compares what was served with what training reads.

    Args:
        served: Folder of the SavedModel.
        requests: What was sent, one row each: a frame or a list of dicts. Values are taken as they
            are: a text is sent as it stands, whatever training would make of it.
        rows: The same rows as training reads them: an Arrow table of `tfmtl.read_table`, a frame,
            or a mapping of columns.
        problem: The declaration.
        key: Columns that both sides have and that tell rows apart; without any, rows are compared
            in their order.
        training: The training graph; the graph of the SavedModel by default. See `graph_of`.
        null_values: Text that means "missing" in `rows`.
        tolerance: Numbers and predictions differ where they are further apart.

    Raises:
        DataError: A column is missing, or no row is on both sides.
    """
    sent = requests if isinstance(requests, pd.DataFrame) else _objects(requests)
    read = _objects(rows)
    for name in (*problem.feature_columns(), *key):
        for table, what in ((sent, "requests"), (read, "rows of training")):
            if name not in table:
                raise DataError(
                    f"the {what} lack the column {name!r}; they have {list(table)}."
                    f"{did_you_mean(name, list(table))}"
                )
    places, unmatched = _matched(sent, read, key)
    sent, read = sent.iloc[places[0]], read.iloc[places[1]]
    columns = problem.feature_columns()
    typed = {
        n: declared(c, read[n], null_values=null_values).to_pylist() for n, c in columns.items()
    }
    as_sent = {n: [_as_sent(c, value) for value in sent[n].tolist()] for n, c in columns.items()}
    found = [
        skew_
        for name, column in columns.items()
        if (skew_ := _compare_raw(column, typed[name], as_sent[name], sent[name].tolist()))
    ]
    serving = graph_of(served)
    wire = {n: [value for value, _ in values] for n, values in as_sent.items()}
    one = _run(training or serving, to_examples(problem, typed))
    other = _run(serving, _examples(columns, wire))
    found += _compare_features(problem, one[0], other[0], tolerance)
    found += _compare_predictions(one[1], other[1], tolerance)
    return SkewReport(len(sent), unmatched, tuple(found))


def graph_of(path: str) -> Graph:
    """The features and predictions of a SavedModel, as `skew` compares them."""
    signatures = tf.saved_model.load(path).signatures
    features, predict = signatures["transform_features"], signatures["serving_default"]

    def run(examples: list[bytes]) -> tuple[Packed, Packed]:
        batch = tf.constant(examples)
        return (
            {name: values.numpy() for name, values in features(batch).items()},
            {name: values.numpy() for name, values in predict(batch).items()},
        )

    # The signatures alone do not keep the variables alive.
    run.signatures = signatures  # type: ignore[attr-defined]
    return run


def training_graph(transform: Any, model: Any, problem: ProblemSpec) -> Graph:
    """The training side of `skew` from its parts.

    Args:
        transform: A fitted `Preprocessor`, or the pipeline's Transform.
        model: The trained model.
        problem: The declaration.
    """
    columns = problem.feature_columns()

    def run(examples: list[bytes]) -> tuple[Packed, Packed]:
        raw = dense_columns(columns, tf.io.parse_example(examples, example_spec(columns)))
        packed = transform(raw)
        predictions = model.predict_served(packed)
        return (
            {name: values.numpy() for name, values in packed.items()},
            {name: values.numpy() for name, values in predictions.items()},
        )

    return run


def _objects(rows: Any) -> pd.DataFrame:
    """A frame whose columns keep their values: pandas would make floats of integers with gaps."""
    if isinstance(rows, pd.DataFrame):
        return rows
    if hasattr(rows, "column_names"):
        columns = {name: rows.column(name).to_pylist() for name in rows.column_names}
    elif isinstance(rows, Mapping):
        columns = {name: list(values) for name, values in rows.items()}
    else:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    return pd.DataFrame({n: pd.Series(v, dtype=object) for n, v in columns.items()})


def _matched(
    sent: pd.DataFrame, read: pd.DataFrame, key: Sequence[str]
) -> tuple[tuple[NDArray[Any], NDArray[Any]], int]:
    if not key:
        if len(sent) != len(read):
            raise DataError(
                f"{len(sent):,} requested rows and {len(read):,} rows of training: without a key "
                "they are compared in their order, and need one number."
            )
        everything = np.arange(len(sent))
        return (everything, everything), 0
    one, other = (_keys(table, key) for table in (read, sent))
    index = pd.Index(one)
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise DataError(f"the rows of training have the key {twice!r} of {list(key)} twice.")
    places = index.get_indexer(pd.Index(other))
    matched = places >= 0
    if not matched.any():
        raise DataError(
            f"no row is on both sides by {list(key)}; the requests have {other[0]!r} and the rows "
            f"of training {one[0]!r}, for instance."
        )
    return (np.flatnonzero(matched), places[matched]), int((~matched).sum())


def _keys(table: pd.DataFrame, key: Sequence[str]) -> list[str]:
    # By their text, so that keys match where one side has 7 and the other 7.0.
    texts = [text_of(as_arrow(table[name], text=True)).to_pylist() for name in key]
    parts = [[_whole(text) for text in column] for column in texts]
    return ["\x1f".join(row) for row in zip(*parts, strict=True)]


def _whole(text: str | None) -> str:
    return "" if text is None else text.removesuffix(".0")


def _as_sent(column: Column, value: Any) -> tuple[Any, bool]:
    """A value as it stands on the wire, and whether the signature would refuse it."""
    if column.max_values:
        items = value if isinstance(value, list | tuple | np.ndarray) else [value]
        sent = [_as_sent(dataclasses.replace(column, max_values=0), item) for item in items]
        return [item for item, _ in sent if item is not None], any(bad for _, bad in sent)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None, False
    if column.dtype == "string":
        return value if isinstance(value, str) else str(value), False
    if isinstance(value, str | bool | bytes):
        return None, True
    if column.dtype == "int64":
        refused = isinstance(value, float)
        return (None if refused else int(value)), refused
    return float(value), False


def _compare_raw(
    column: Column,
    typed: Sequence[Any],
    sent: Sequence[tuple[Any, bool]],
    original: Sequence[Any],
) -> ColumnSkew | None:
    differing = [
        row
        for row, (one, (other, refused)) in enumerate(zip(typed, sent, strict=True))
        if refused or not _same(_plain(column, one), _plain(column, other))
    ]
    if not differing:
        return None
    pairs = list(dict.fromkeys((repr(typed[r]), repr(original[r])) for r in differing))[:EXAMPLES]
    first = {(repr(typed[r]), repr(original[r])): r for r in reversed(differing)}
    examples = tuple((typed[first[pair]], original[first[pair]]) for pair in pairs)
    causes = dict.fromkeys(cause_of(column, one, other) for one, other in examples)
    cause = "; ".join(cause for cause in causes if cause)
    return ColumnSkew("column", column.name, len(differing), len(typed), examples, cause)


def _plain(column: Column, value: Any) -> Any:
    absent = ABSENT[column.dtype]
    if column.max_values:
        return [absent if item is None else item for item in value or []][: column.max_values]
    return absent if value is None else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or bool(np.float32(one) == np.float32(other)) or one != one != other
    return bool(one == other)


def _examples(columns: Mapping[str, Column], wire: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """Serialises values as they stand, without the conversions of `to_examples`."""
    rows = len(next(iter(wire.values())))
    examples = [tf.train.Example() for _ in range(rows)]
    for name, column in columns.items():
        for example, value in zip(examples, wire[name], strict=True):
            values = value if isinstance(value, list) else [] if value is None else [value]
            feature = example.features.feature[name]
            if column.dtype == "string":
                feature.bytes_list.value.extend(item.encode() for item in values)
            elif column.dtype == "int64":
                feature.int64_list.value.extend(values)
            else:
                feature.float_list.value.extend(values)
    return [example.SerializeToString() for example in examples]


def _run(graph: Graph, examples: list[bytes]) -> tuple[Packed, Packed]:
    parts = [graph(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)]
    packed, predictions = (
        {name: np.concatenate([part[side][name] for part in parts]) for name in parts[0][side]}
        for side in (0, 1)
    )
    return packed, predictions


def _compare_features(
    problem: ProblemSpec, one: Packed, other: Packed, tolerance: float
) -> list[ColumnSkew]:
    layout = layout_of(problem)
    differing: dict[str, NDArray[np.bool_]] = {}
    for kind, slots in (("ids", layout.ids), ("numbers", layout.numbers)):
        sides = [f"{kind}_{side}" for side in layout.sides if f"{kind}_{side}" in one]
        if not sides:
            continue
        values = [
            np.concatenate([packed[side] for side in sides], axis=1) for packed in (one, other)
        ]
        apart = np.abs(values[0].astype(np.float64) - values[1]) > (
            tolerance if kind == "numbers" else 0
        )
        apart |= np.isnan(values[0].astype(np.float64)) != np.isnan(values[1].astype(np.float64))
        covered = [(s.feature.name, s.start, s.width) for s in slots]
        if kind == "numbers":
            width = {s.feature.name: s.width for s in layout.ids}
            covered += [(name, start, width[name]) for name, start in layout.weights.items()]
        for name, start, width_ in covered:
            rows = apart[:, start : start + width_].any(axis=1)
            differing[name] = differing.get(name, np.zeros(len(rows), bool)) | rows
    return [
        ColumnSkew("feature", name, int(rows.sum()), len(rows))
        for name, rows in differing.items()
        if rows.any()
    ]


def _compare_predictions(one: Packed, other: Packed, tolerance: float) -> list[ColumnSkew]:
    found = []
    for task, values in one.items():
        apart = np.abs(values.astype(np.float64) - other[task])
        rows = apart > tolerance
        if rows.any():
            worst = int(np.argmax(apart))
            pair = ((round(float(values[worst]), 6), round(float(other[task][worst]), 6)),)
            found.append(
                ColumnSkew(
                    "prediction", task, int(rows.sum()), len(rows), pair, largest=float(apart.max())
                )
            )
    return found
