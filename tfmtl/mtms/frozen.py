"""The look-up in the frozen tables of several components, as one search and one gather.

The rows of all components are in one table, sorted by component, field and id, and so are their
keys. A binary search for `(component, field, id)` finds the position of a row; its time grows with
the logarithm of the number of rows, and it needs one number per row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone
from tfmtl.declare.features import Categorical
from tfmtl.declare.layout import Slots, layout_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.layers.tables import pooled
from tfmtl.mtms.store import Component
from tfmtl.mtms.units import columns_of

Name = tuple[str, str]
"""A component: its scene and the task that owns it."""


class ComponentTables(tf.Module):
    """The rows of all components in one table that is never trained.

    Args:
        components: Components by name.
        features: Names of all fields, in the order of the keys.
        resizable: Whether rows of other components can take their place; see `FrozenFields.read`.

    Attributes:
        keys: int64 `[R]`, sorted.
        table: float32 `[R, dim]`.
    """

    def __init__(
        self,
        components: Mapping[Name, Component],
        features: Sequence[str],
        *,
        resizable: bool = False,
    ):
        super().__init__(name="component_tables")
        self.resizable = resizable
        self.names, self.features = tuple(components), tuple(features)
        keys, rows = [], []
        self._starts: dict[tuple[Name, str], int] = {}
        at = 0
        for name, component in components.items():
            for feature in self.features:
                if feature not in component.features:
                    continue
                block = component.block(feature)
                self._starts[name, feature] = at
                keys.append(component.keys[block] + self.prefix(name, feature))
                rows.append(component.table[block])
                at += block.stop - block.start
        self.keys = self._variable(np.concatenate(keys), "keys")
        self.table = self._variable(np.concatenate(rows), "table")

    def _variable(self, values: np.ndarray, name: str) -> tf.Variable:
        shape = [None, *values.shape[1:]] if self.resizable else None
        return tf.Variable(values, trainable=False, name=name, shape=shape)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.table.shape[1]

    def prefix(self, name: Name, feature: str) -> np.int64:
        """The number that is added to an id to get the key of its row."""
        field = self.names.index(name) * len(self.features) + self.features.index(feature)
        return np.int64(field) << 32

    def start(self, name: Name, feature: str) -> int:
        """The row of a component's unknown ids, the first of its field."""
        return self._starts[name, feature]

    def has(self, name: Name, feature: str) -> bool:
        """Whether a component has the field."""
        return (name, feature) in self._starts

    def look_up(self, keys: tf.Tensor, unknown: tf.Tensor) -> tf.Tensor:
        """Rows `[…, dim]` of int64 keys `[…]`; a key without a row gets the row of `unknown`."""
        flat = tf.reshape(keys, [-1])
        place = tf.searchsorted(self.keys, flat)
        place = tf.minimum(place, tf.shape(self.keys)[0] - 1)
        known = tf.reshape(tf.gather(self.keys, place) == flat, tf.shape(keys))
        place = tf.reshape(place, tf.shape(keys))
        return tf.gather(self.table, tf.where(known, place, unknown))


class FrozenFields(keras.layers.Layer):
    """The input of a fine-tuned network: a row's vectors in all components that contribute.

    Maps packed tensors of the whole problem to `[batch, width]`, the concatenation over components
    and fields of `stop_gradient(e)`, followed by the scene's numbers, once (our choice: numbers
    belong to no component). A field that a component does not have is left out; an id that it has
    never seen gets its row of unknown ids (Tan et al., MTMS, fig. 2c).

    Args:
        problem: The whole problem.
        part: The scene's features as a problem.
        tables: Tables of at least these components.
        components: The components to read, in order.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        part: ProblemSpec,
        tables: ComponentTables,
        components: Sequence[Name],
        **kwargs,
    ):
        # As `Embedding`: float32 under a mixed-precision policy too.
        super().__init__(**{"dtype": "float32", **kwargs}, trainable=False)
        self.layout, self.component_tables = layout_of(problem), tables
        self.tables: dict[str, tf.Variable] = {}
        """The tables to train; there are none."""
        ids, numbers = columns_of(problem, part)
        of_part = layout_of(part)
        single = [s for s in of_part.ids if not _is_list(s)]
        pairs = [(c, s) for c in components for s in single if tables.has(c, s.feature.name)]
        self._single = _Pairs(tables, pairs, ids)
        self._lists = [
            (
                slots,
                _Pairs(tables, [(c, slots) for c in having], ids),
                [numbers[of_part.weights[slots.feature.name] + i] for i in range(slots.width)]
                if slots.feature.name in of_part.weights
                else None,
            )
            for slots in of_part.ids
            if _is_list(slots)
            and (having := [c for c in components if tables.has(c, slots.feature.name)])
        ]
        self._numbers = [numbers[s.start + i] for s in of_part.numbers for i in range(s.width)]
        names = [_name(c, s) for c, s in pairs]
        names += [_name(c, s) for s, of_list, _ in self._lists for c in of_list.components]
        self.input_names = [f"{name}:{i}" for name in names for i in range(tables.dim)]
        self.input_names += [
            f"{s.feature.name}:{i}" for s in of_part.numbers for i in range(s.width)
        ]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a graph depends on, apart from the values in tables that are resizable."""
        every = [self._single, *(pairs for _, pairs, _ in self._lists)]
        lists = [(slots, weights and tuple(weights)) for slots, _, weights in self._lists]
        return (
            tuple((tuple(p.columns), tuple(p.prefixes), len(p.components)) for p in every),
            tuple(lists),
            tuple(self._numbers),
            self.component_tables.dim,
            self.component_tables.resizable,
        )

    def read(self, other: "FrozenFields") -> None:
        """Reads the tables of other fields with the same `shape`, whose rows are copied."""
        for name in ("keys", "table"):
            variable = getattr(self.component_tables, name)
            variable.assign(getattr(other.component_tables, name))
        pairs = ([fields._single, *(p for _, p, _ in fields._lists)] for fields in (self, other))
        for ours, theirs in zip(*pairs, strict=True):
            ours.starts.assign(theirs.starts)

    @property
    def width(self) -> int:
        """Columns of the result."""
        return len(self.input_names)

    def call(self, packed, training=False):
        """Returns `[batch, width]`."""
        return self.embed(packed)[0]

    def embed(self, packed: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the fields, and 0 as the tables' part of weight decay."""
        parts = []
        dim = self.component_tables.dim
        ids = self._concat(packed, "ids", self.layout.id_columns)
        numbers = self._concat(packed, "numbers", self.layout.number_columns)
        if self._single.columns:
            vectors = self._single.look_up(self.component_tables, ids)
            parts.append(tf.reshape(vectors, [-1, len(self._single.columns) * dim]))
        for slots, pairs, weights in self._lists:
            count, width = len(pairs.components), slots.width
            vectors = pairs.look_up(self.component_tables, ids)
            given = tf.cast(tf.gather(ids, pairs.columns[:width], axis=1) >= 0, tf.float32)
            if weights is not None:
                given *= tf.gather(numbers, weights, axis=1)
            vector = pooled(
                tf.reshape(vectors, [-1, width, dim]),
                tf.repeat(given, count, axis=0),
                getattr(slots.feature, "pooling", "mean"),
            )
            parts.append(tf.reshape(vector, [-1, count * dim]))
        if self._numbers:
            parts.append(tf.gather(numbers, self._numbers, axis=1))
        return tf.concat(parts, axis=1), tf.constant(0.0)

    def _concat(self, packed, what, columns):
        parts = [packed[f"{what}_{side}"] for side in self.layout.sides if columns[side]]
        return tf.concat(parts, axis=1) if parts else None


class Concatenated(Backbone):
    """Passes `[batch, width]` unchanged to each task's tower."""

    def call(self, fields, training=False):
        return dict.fromkeys(self.tasks, fields)


class _Pairs:
    """Pairs of a component and a column of ids, with the position of their rows."""

    def __init__(self, tables: ComponentTables, pairs: Sequence[tuple[Name, Slots]], ids):
        self.components = [name for name, _ in pairs]
        each = [(name, s.feature.name, s.start + i) for name, s in pairs for i in range(s.width)]
        self.columns = [ids[column] for _, _, column in each]
        self.prefixes = np.asarray([tables.prefix(name, f) for name, f, _ in each], np.int64)
        starts = np.asarray([tables.start(name, f) for name, f, _ in each], np.int32)
        self.starts = tf.Variable(starts, trainable=False) if tables.resizable else starts

    def look_up(self, tables: ComponentTables, ids: tf.Tensor) -> tf.Tensor:
        """Rows `[batch, columns, dim]`."""
        chosen = tf.cast(tf.gather(ids, self.columns, axis=1), tf.int64)
        # Padding is below every id; a row is read for it, and gets weight 0.
        keys = tf.maximum(chosen, 0) + self.prefixes
        return tables.look_up(keys, tf.broadcast_to(self.starts, tf.shape(keys)))


def _is_list(slots: Slots) -> bool:
    return isinstance(slots.feature, Categorical) and slots.feature.max_values > 0


def _name(component: Name, slots: Slots) -> str:
    return "/".join((*component, slots.feature.name))
