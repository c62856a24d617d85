"""Statistics of training rows, fitted in memory with pandas and NumPy, and look-ups in them.

`Fitting` and `Fitted` are two of the `Analyzers`. Both look up eager tensors with pandas. A
TensorFlow table is made only where a graph is traced, as in an export, and is freed with its owner.
"""

import collections
import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.features.analyzers import Lookup
from tfmtl.features.exact import Moments
from tfmtl.features.raw import NO_INTEGER
from tfmtl.features.states import KeySums, Quantiles, joint_vocabulary, log_moments

State = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Keys:
    """Distinct text keys, in the order of their first rows.

    Attributes:
        text: The keys, a string tensor `[K]`. A tensor of strings below 23 bytes needs 24 bytes
            per string; an array of Python's bytes needs about 65.
        hashes: Their 63-bit fingerprints, by which rows find their key. They are compared instead
            of the text because that is five times as fast. The chance that any two of a million
            keys share one is about 1e-7.
    """

    text: tf.Tensor
    hashes: pd.Index

    def places(self, keys: tf.Tensor) -> NDArray[np.intp]:
        """Returns the place of each of `keys` `[n]`, −1 for one that is not among them."""
        places: NDArray[np.intp] = self.hashes.get_indexer(_hashes(keys))
        return places


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """A sum per key.

    Attributes:
        keys: The keys.
        totals: Their sums, float32 `[K]`, not negative.
    """

    keys: Keys
    totals: NDArray[np.float32]

    def at(self, places: NDArray[np.intp]) -> tf.Tensor:
        """Returns the sums at places among the keys, 0 at −1."""
        if not len(self.totals):
            return tf.zeros(places.shape, tf.float32)
        return tf.constant(np.where(places >= 0, self.totals[places], np.float32(0)))


class Fitted(tf.Module):
    """Analyzers that answer from what was fitted.

    Args:
        state: What a `Fitting` collected.

    Attributes:
        state: As given.
        tables: Tables of the look-ups that were traced, by the name in `state`; saved with what is
            exported.
    """

    def __init__(self, state: State):
        super().__init__(name="fitted")
        self.state = state
        self.tables: dict[str, tf.lookup.StaticHashTable] = {}
        # An index builds a hash table at its first look-up, and keeps it.
        self._vocabularies = {
            name: pd.Index(tokens, dtype=object if tokens.dtype.kind == "O" else tokens.dtype)
            for name, tokens in state.items()
            if name.startswith("vocabulary/")
        }

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`."""
        return lambda x: self._ids(f"vocabulary/{name}", x)

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        mean, std = self.state[f"moments/{name}"]
        return tf.constant(mean), tf.constant(std)

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        return tf.constant(self.state[f"quantiles/{name}"])

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        return lambda x: self._sums(f"sums/{name}", x)

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        return self.sums(name, keys, keys), *self.moments(f"{name}_log", keys)

    def _ids(self, name: str, values: tf.Tensor) -> tf.Tensor:
        if tf.is_symbolic_tensor(values):
            return self._table(name).lookup(values)
        ids = self._vocabularies[name].get_indexer(values.numpy().ravel())
        return tf.constant(ids.reshape(values.shape), tf.int64)

    def _sums(self, name: str, keys: tf.Tensor) -> tf.Tensor:
        if tf.is_symbolic_tensor(keys):
            return self._table(name).lookup(keys)
        sums: Sums = self.state[name]
        return sums.at(sums.keys.places(keys))

    def _table(self, name: str) -> tf.lookup.StaticHashTable:
        if name not in self.tables:
            # Outside of the graph that is traced, as a variable is, and once for all graphs.
            with tf.init_scope():
                self.tables[name] = _table_of(self.state[name])
        return self.tables[name]


class Fitting:
    """Analyzers that fit at once, on eager tensors that hold all training rows.

    Attributes:
        state: What was fitted, for `Fitted`.
    """

    def __init__(self) -> None:
        self.state: State = {}
        # A target encoding sums several values over the same two tensors of keys.
        self._grouped: collections.deque[tuple[tf.Tensor, Keys, NDArray[np.intp]]] = (
            collections.deque(maxlen=2)
        )

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`."""
        counts = [_counted(part) for part in (values, further) if part is not None]
        ordered = joint_vocabulary(*counts, size=size, min_count=min_count)
        tokens = ordered.to_numpy(zero_copy_only=False)
        self.state[f"vocabulary/{name}"] = tokens
        fitted = Fitted({f"vocabulary/{name}": tokens})
        return fitted.vocabulary(name, values, size, min_count)

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        moments = Moments()
        moments.add(values.numpy())
        self.state[f"moments/{name}"] = np.array([moments.mean, moments.std])
        return tf.constant(moments.mean, tf.float64), tf.constant(moments.std, tf.float64)

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        quantiles = Quantiles()
        quantiles.add(values.numpy())
        self.state[f"quantiles/{name}"] = quantiles.edges(bins)
        return tf.constant(self.state[f"quantiles/{name}"])

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        distinct, places = self._group(keys)
        totals = np.bincount(places, values.numpy(), len(distinct.hashes)).astype(np.float32)
        sums = self.state[f"sums/{name}"] = Sums(distinct, totals)
        # The training rows' places are known; other rows look theirs up.
        return lambda x: sums.at(places if x is keys else distinct.places(x))

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        count = self.sums(name, keys, tf.ones(tf.shape(keys), tf.float32))
        moments = log_moments(self.state[f"sums/{name}"].totals)
        self.state[f"moments/{name}_log"] = moments
        return count, *(tf.constant(moment, tf.float64) for moment in moments)

    def _group(self, keys: tf.Tensor) -> tuple[Keys, NDArray[np.intp]]:
        for grouped, distinct, places in self._grouped:
            if grouped is keys:
                return distinct, places
        hashes = _hashes(keys)
        places, values = pd.factorize(hashes)
        # In the order of first rows, which is that of `factorize`.
        first_rows = np.flatnonzero(~pd.Series(hashes).duplicated().to_numpy())
        distinct = Keys(tf.gather(keys, first_rows), pd.Index(values))
        self._grouped.append((keys, distinct, places))
        return distinct, places


def in_memory(values: Mapping[str, Any]) -> State:
    """The state of `Fitted`, from what `collect.fitted_values` returns."""
    state: State = {}
    for key, value in values.items():
        if key.startswith("sums/"):
            keys, totals = value
            text = tf.constant(keys.to_numpy(), tf.string)
            state[key] = Sums(Keys(text, pd.Index(_hashes(text))), totals)
        elif key.startswith("vocabulary/"):
            state[key] = value.to_numpy(zero_copy_only=False)
        else:
            state[key] = value
    return state


def _counted(values: tf.Tensor) -> KeySums:
    # Hashing, then sorting the few distinct values; np.unique would sort every row's text.
    by_value = pd.Series(values.numpy()).value_counts(sort=False)
    counts = KeySums()
    counts.add(by_value.index.to_numpy(), by_value.to_numpy())
    return counts


def _hashes(keys: tf.Tensor) -> NDArray[np.int64]:
    hashes: NDArray[np.int64] = tf.strings.to_hash_bucket_fast(keys, 2**63 - 1).numpy()
    return hashes


def _table_of(fitted: "NDArray[Any] | Sums") -> tf.lookup.StaticHashTable:
    """The table of a vocabulary's ids, or of the sums that are not 0."""
    if isinstance(fitted, Sums):
        kept = np.flatnonzero(fitted.totals > 0)
        return _table(tf.gather(fitted.keys.text, kept), fitted.totals[kept], 0.0)
    dtype = tf.int64 if fitted.dtype.kind == "i" else tf.string
    return _table(tf.constant(fitted, dtype), tf.range(len(fitted), dtype=tf.int64), -1)


def _table(keys: tf.Tensor, values: Any, default: float) -> tf.lookup.StaticHashTable:
    if not len(keys):
        # TensorFlow has no empty table; one value that maps to the default does the same.
        keys = tf.constant([b"" if keys.dtype == tf.string else NO_INTEGER], keys.dtype)
        values = tf.constant([default], tf.int64 if isinstance(default, int) else tf.float32)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, values), default_value=default
    )
    # TensorFlow keeps the resource until the process ends. An anonymous table would be freed with
    # its object, but each run of a session on the SavedModel would get an empty one; and a class
    # with a destructor of its own would take that into the SavedModel, whose tables would be gone
    # with the Python object that was loaded.
    freed = weakref.finalize(
        table,
        tf.raw_ops.DestroyResourceOp,
        resource=table.resource_handle,
        ignore_lookup_error=True,
    )
    freed.atexit = False
    return table
