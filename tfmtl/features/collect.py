"""Statistics of rows in files: which ones the encodings ask for, and what a shard contributes.

`encode` is traced once with analyzers that note what they are asked (`Plan`). What they noted is
then computed for each batch of serialised tf.Examples in TensorFlow's C++, and taken in by states
that merge. A shard is read once, whatever the number of columns.
"""

import collections
import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.declare.features import FOLD, Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.features.analyzers import Lookup
from tfmtl.features.encode import encode
from tfmtl.features.raw import ABSENT, DTYPES
from tfmtl.features.states import (
    KeySums,
    Numbers,
    Quantiles,
    State,
    joint_vocabulary,
    log_moments,
)
from tfmtl.features.statistics import Fitted

VALUES_AT_ONCE = 1 << 22
"""Values per batch, whatever the number of columns: at most about 200 MB."""
MOST_ROWS = 1 << 15
STATES: Mapping[str, Callable[[], State]] = {
    "vocabulary": KeySums,
    "further": KeySums,
    "sums": KeySums,
    "moments": Numbers,
    "quantiles": Quantiles,
}
States = dict[str, State]
Tensors = tuple[tf.Tensor, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistic:
    """A statistic that an encoding asks for.

    Attributes:
        kind: The method of `Analyzers`; `sums` also for `log_counts`, and `further` for the other
            columns of a shared vocabulary.
        name: The name that the encoding gives it.
        size: Most values of a vocabulary.
        min_count: Least number of rows per value of a vocabulary.
        bins: Number of bins of quantiles.
        logs: Whether the moments of the logarithms of counts are asked for, too.
    """

    kind: str
    name: str
    size: int | None = None
    min_count: int = 1
    bins: int = 0
    logs: bool = False

    @property
    def key(self) -> str:
        """Kind and name, as in the state of `Fitted`."""
        return f"{self.kind}/{self.name}"


class Plan:
    """What a problem's encodings ask for, and how a batch of rows contributes to it.

    Args:
        problem: The declaration.
        null_values: Text that means "missing", as in `encode`.
        fitted: Statistics that are known already. Only an encoding that fits a statistic of
            values that depend on another statistic needs it; none of the library's does.

    Attributes:
        statistics: Those that a pass over the rows can collect now, by key.
        columns: Raw columns that they depend on, by name.
        passes: Number of passes until all statistics are known.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        null_values: Sequence[str] = (),
        *,
        fitted: Fitted | None = None,
    ):
        noting = _Noting(fitted)
        columns = raw_columns(problem)
        specs = [
            tf.TensorSpec([None, None] if c.max_values else [None], DTYPES[c.dtype], f"column_{i}")
            for i, c in enumerate(columns.values())
        ]

        def trace(*raw: tf.Tensor) -> dict[str, Tensors]:
            named = dict(zip(columns, raw, strict=True))
            encode(problem, named, noting, null_values=null_values)
            return noting.contributions()

        function = tf.compat.v1.wrap_function(trace, specs, name="collect")
        levels = noting.levels(function.graph)
        self.passes = 1 + max(levels.values(), default=-1)
        self.statistics = {key: noting.asked[key] for key, level in levels.items() if level == 0}
        self.columns: dict[str, Column] = {}
        self._step: Callable[[tf.Tensor], dict[str, Tensors]] | None = None
        if self.statistics:
            outputs = {key: function.structured_outputs[key] for key in self.statistics}
            self.columns, self._step = _pruned(function, outputs, columns)

    def collect(self, path: str) -> States:
        """The states of one file of tf.Examples.

        Args:
            path: A TFRecord file; `.gz` is decompressed.

        Raises:
            DataError: A column's values are not of the declared type.
        """
        states = {key: STATES[s.kind]() for key, s in self.statistics.items()}
        if self._step is None:
            return states
        batches = read_batches(path, rows_at_once(self.columns))
        for batch in mapped(batches, self._step, path):
            for key, arrays in batch.items():
                states[key].add(*(array.numpy() for array in arrays))
        return states


def fitted_values(statistics: Mapping[str, Statistic], states: States) -> dict[str, Any]:
    """The statistics themselves, from what all rows contributed.

    Returns:
        By key: a vocabulary's values in the order of ids (Arrow), `(keys, totals)` of sums (Arrow,
        float32), mean and standard deviation `[2]` of moments, edges `[bins + 1]` of quantiles. The
        moments of logarithms of the counts `c` are `moments/c_log`.
    """
    values: dict[str, Any] = {}
    for key, statistic in statistics.items():
        state = states[key]
        if isinstance(state, Numbers):
            values[key] = np.array([state.moments.mean, state.moments.std])
        elif isinstance(state, Quantiles):
            values[key] = state.edges(statistic.bins)
        elif isinstance(state, KeySums) and statistic.kind == "sums":
            values[key] = state.keys, state.totals.astype(np.float32)
            if statistic.logs:
                values[f"moments/{statistic.name}_log"] = log_moments(values[key][1])
        elif isinstance(state, KeySums) and statistic.kind == "vocabulary":
            further = states.get(f"further/{statistic.name}")
            assert further is None or isinstance(further, KeySums)
            values[key] = joint_vocabulary(
                state, further, size=statistic.size, min_count=statistic.min_count
            )
    return values


def merged(parts: Iterable[States]) -> States:
    """One set of states out of several, which stay as they are."""
    whole: States = {}
    for part in parts:
        add_part(whole, part)
    return whole


def add_part(whole: States, part: States) -> None:
    """Merges the states of a part into those of `whole`."""
    for key, state in part.items():
        if key not in whole:
            whole[key] = type(state)()
        whole[key].merge(state)


def raw_columns(problem: ProblemSpec) -> dict[str, Column]:
    """The columns of raw rows: the declared ones, and the fold."""
    return {**problem.columns(), FOLD: Column(name=FOLD, dtype="int64")}


def parse(serialized: tf.Tensor, columns: Mapping[str, Column]) -> dict[str, tf.Tensor]:
    """Dense raw columns of serialised tf.Examples; what is not there is the missing value.

    Returns:
        `[batch]` for a scalar column, `[batch, most values of a row]` for a list. A fold that is
        not there is −1.
    """
    spec = {}
    for name, column in columns.items():
        dtype = DTYPES[column.dtype]
        absent = tf.constant(-1 if name == FOLD else ABSENT[column.dtype], dtype)
        spec[name] = tf.io.FixedLenSequenceFeature([], dtype, True, absent)
    parsed: dict[str, tf.Tensor] = tf.io.parse_example(serialized, spec)
    for name, column in columns.items():
        if not column.max_values:
            # There is no first value where no row of the batch has any.
            absent = spec[name].default_value
            padded = tf.pad(parsed[name], [[0, 0], [0, 1]], constant_values=absent)
            parsed[name] = padded[:, 0]
    return parsed


def rows_at_once(columns: Mapping[str, Column]) -> int:
    """Rows per batch, so that a batch has at most `VALUES_AT_ONCE` values."""
    values = sum(max(column.max_values, 1) for column in columns.values())
    return int(np.clip(VALUES_AT_ONCE // max(values, 1), 64, MOST_ROWS))


def read_batches(path: str, rows: int) -> tf.data.Dataset:
    """Serialised tf.Examples of a TFRecord file, `[batch]`; `.gz` is decompressed."""
    kind = "GZIP" if path.endswith(".gz") else ""
    return tf.data.TFRecordDataset(path, kind, buffer_size=8 << 20).batch(rows)


def mapped(
    batches: tf.data.Dataset, step: Callable[[tf.Tensor], dict[str, Any]], path: str
) -> Iterator[dict[str, Any]]:
    """What `step` makes of each batch; that of the next is computed beside the caller's work.

    Args:
        batches: As `read_batches` returns them.
        step: A function that was traced. (A data set's `map` would prepare it anew per file, which
            takes seconds where there are many columns.)
        path: The file, for messages.

    Raises:
        DataError: A column's values are not of the declared type.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        waiting: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        try:
            for batch in batches.prefetch(2):
                waiting.append(beside.submit(step, batch))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except tf.errors.InvalidArgumentError as error:
            message = _wrong_type(str(error), path)
            if message is None:
                raise
            raise DataError(message) from error


def _wrong_type(text: str, path: str) -> str | None:
    wrong = re.search(r"Key: (.+?), +Index.*?Data type: (\w+) but expected type: (\w+)", text, re.S)
    if wrong is None:
        return None
    column, came, declared = wrong.groups()
    return (
        f"{path}: column {column!r} has values of type {came}, and {declared} is declared; "
        "declare the type that the file has, or write the file anew."
    )


class _Noting:
    """Analyzers that note what they are asked, and answer with placeholders.

    Attributes:
        asked: Statistics that are not known yet, by key.
    """

    def __init__(self, fitted: Fitted | None):
        self._fitted = Fitted({}) if fitted is None else fitted
        self.asked: dict[str, Statistic] = {}
        self._inputs: dict[str, Tensors] = {}
        self._answers: dict[str, str] = {}
        self._distinct: list[tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]] = []

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`."""
        asked = Statistic(kind="vocabulary", name=name, size=size, min_count=min_count)
        if self._knows(asked, values):
            return self._fitted.vocabulary(name, values, size, min_count)
        if further is not None:
            self._knows(dataclasses.replace(asked, kind="further"), further)
        return lambda x: self._answer(asked, tf.int64, x.shape)

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        asked = Statistic(kind="moments", name=name)
        if self._knows(asked, values):
            return self._fitted.moments(name, values)
        return self._answer(asked, tf.float64, []), self._answer(asked, tf.float64, [])

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        asked = Statistic(kind="quantiles", name=name, bins=bins)
        if self._knows(asked, values):
            return self._fitted.quantiles(name, values, bins)
        return self._answer(asked, tf.float32, [bins + 1])

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        asked = Statistic(kind="sums", name=name)
        if self._knows(asked, keys, values):
            return self._fitted.sums(name, keys, values)
        return lambda x: self._answer(asked, tf.float32, x.shape)

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        asked = Statistic(kind="sums", name=name, logs=True)
        if self._knows(asked, keys, tf.ones(tf.shape(keys), tf.float32)):
            return self._fitted.log_counts(name, keys)
        mean, std = (self._answer(asked, tf.float64, []) for _ in range(2))
        return lambda x: self._answer(asked, tf.float32, x.shape), mean, std

    def contributions(self) -> dict[str, Tensors]:
        """What a batch contributes to each statistic: the arguments of `State.add`."""
        return {key: self._reduced(key) for key in self.asked}

    def levels(self, graph: tf.Graph) -> dict[str, int]:
        """By key, how many passes over the rows must be done before a statistic's values exist."""
        levels: dict[str, int] = {}
        by_op: dict[str, int] = {}

        def level_of(tensors: Iterable[tf.Tensor]) -> int:
            return max((by_op.get(tensor.op.name, 0) for tensor in tensors), default=0)

        # Operations are listed in the order in which they were made, so inputs come first.
        for op in graph.get_operations():
            key = self._answers.get(op.name)
            if key is not None:
                by_op[op.name] = 1 + level_of(self._inputs[key])
            elif level := level_of(op.inputs):
                by_op[op.name] = level
        for key, tensors in self._inputs.items():
            levels[key] = level_of(tensors)
        return levels

    def _knows(self, asked: Statistic, *tensors: tf.Tensor) -> bool:
        if asked.key in self._fitted.state:
            return True
        self.asked[asked.key], self._inputs[asked.key] = asked, tensors
        return False

    def _answer(self, asked: Statistic, dtype: tf.DType, shape: Any) -> tf.Tensor:
        answer = tf.compat.v1.placeholder(dtype, shape)
        self._answers[answer.op.name] = asked.key
        return answer

    def _reduced(self, key: str) -> Tensors:
        kind, tensors = self.asked[key].kind, self._inputs[key]
        if kind in ("moments", "quantiles"):
            return tensors
        distinct, places = self._unique(tensors[0])
        count = tf.size(distinct)
        if kind in ("vocabulary", "further"):
            return distinct, tf.cast(tf.math.bincount(places, minlength=count), tf.float64)
        numbers = tf.cast(tf.reshape(tensors[1], [-1]), tf.float64)
        return distinct, tf.math.unsorted_segment_sum(numbers, places, count)

    def _unique(self, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A target encoding sums several values over the same keys.
        for known, distinct in self._distinct:
            if known is keys:
                return distinct
        distinct = tuple(tf.unique(tf.reshape(keys, [-1])))
        self._distinct.append((keys, distinct))
        return distinct


def _pruned(
    function: Any, outputs: Mapping[str, Tensors], columns: Mapping[str, Column]
) -> tuple[dict[str, Column], Callable[[tf.Tensor], dict[str, Tensors]]]:
    """The columns that outputs depend on, and the outputs as a function of serialised rows."""
    waiting = [tensor.op for tensors in outputs.values() for tensor in tensors]
    needed: set[str] = set()
    while waiting:
        op = waiting.pop()
        if op.name not in needed:
            needed.add(op.name)
            waiting += [tensor.op for tensor in op.inputs]
    feeds = {
        name: tensor
        for name, tensor in zip(columns, function.inputs, strict=False)
        if tensor.op.name in needed
    }
    read = {name: columns[name] for name in feeds}
    # wrap_function knows no dictionaries of tuples among its fetches.
    flat = [tensor for tensors in outputs.values() for tensor in tensors]
    pruned = function.prune(list(feeds.values()), flat)

    def step(serialized: tf.Tensor) -> dict[str, Tensors]:
        raw = parse(serialized, read)
        results = iter(pruned(*(raw[name] for name in feeds)))
        return {key: tuple(next(results) for _ in tensors) for key, tensors in outputs.items()}

    traced = tf.function(step, [tf.TensorSpec([None], tf.string)], autograph=False)
    return read, traced.get_concrete_function()
