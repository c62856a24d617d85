"""Packed tensors to field embeddings, with one fused table per width."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.features import SIDES, Categorical
from tfmtl.declare.layout import SequenceSlots, Slots, is_list, layout_of, table_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.layers.fields import Field, Fields
from tfmtl.layers.grouped import GroupedDense, tiles_of
from tfmtl.layers.sequence_fields import SequenceFields
from tfmtl.layers.tables import PAD_ROWS, Group, RowInitializer, pooled


class Embedding(keras.layers.Layer):
    """Maps packed tensors to `[batch, fields, dim]`, one gather per table width.

    Fields are the features with ids, in the layout's order, then the numbers: one joint field
    (`numeric_mode="joint"`, all numbers through one dense layer) or one field `xⱼ·wⱼ + bⱼ`
    per number (`"fieldwise"`). The joint field may have hidden layers, as the bottom MLP
    of DLRM (Naumov et al., 2019). A feature whose own width differs from `dim` is projected
    linearly.

    A value never seen in training has the zero vector, unless rarely seen values
    (`min_count`) have taught its table's `unknown` row otherwise (our choice: noise from a row
    that was never trained would be worse).

    Args:
        problem: The declaration.
        table_rows: Rows of each feature's table, by feature name; see `Preprocessor.table_rows`.
        dim: Width of every field.
        numeric_mode: `joint` or `fieldwise`.
        numeric_units: Widths of ReLU layers below the joint field.
        stddev: Standard deviation of the initial rows.
        sides: Sides read; all by default, those of one tower for a tower.
        lender: An embedding of other sides. Where a column here shares a table with a feature of
            those sides, it reads the lender's table: one variable, two readers. Without one, such
            a column has a table of its own.
        copies: How many embeddings this one holds. A row reads the copy that `embed` is given
            for it. Each table has one block of rows per copy, still with one gather; projections
            and numbers have weights per copy.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        table_rows: Mapping[str, int],
        *,
        dim: int = 16,
        numeric_mode: str = "joint",
        numeric_units: Sequence[int] = (),
        stddev: float = 0.01,
        sides: tuple[str, ...] = SIDES,
        copies: int = 1,
        lender: "Embedding | None" = None,
        **kwargs: Any,
    ) -> None:
        # Rows are looked up and updated in float32 under a mixed-precision policy too.
        super().__init__(**{"dtype": "float32", **kwargs})
        if numeric_mode not in ("joint", "fieldwise"):
            raise SpecError(f"numeric_mode={numeric_mode!r} is neither 'joint' nor 'fieldwise'.")
        if numeric_units and numeric_mode != "joint":
            raise SpecError(
                f"numeric_units={tuple(numeric_units)} are layers below the one joint field; with "
                "numeric_mode='fieldwise' every number is a field of its own."
            )
        self.problem, self.table_rows = problem, dict(table_rows)
        self.dim, self.numeric_mode, self.stddev = dim, numeric_mode, stddev
        self.numeric_units = tuple(numeric_units)
        self.sides, self.copies = tuple(sides), copies
        self.layout = layout_of(problem, self.sides)
        self._widths = {
            s.feature.name: getattr(s.feature, "dim", None) or dim for s in self.layout.ids
        }
        of_tables = {s.feature.table: self._widths[s.feature.name] for s in self.layout.ids}
        for slots in self.layout.sequences:
            for place, event in enumerate(slots.feature.events):
                of_tables.setdefault(table_of(slots.feature, place), event.dim or dim)
        # Keras saves no dict that was changed after it was kept.
        self._table_widths = of_tables
        self._lend_to(lender)
        self._sequences = [self._sequence(slots) for slots in self.layout.sequences]
        self.tables: dict[str, tf.Variable] = {}
        self._starts: dict[str, tuple[str, int, int]] = {}
        self._zero_rows: dict[str, list[int]] = {}
        self.projections: dict[str, GroupedDense] = {}

    @property
    def fields(self) -> Fields:
        """What the fields are, in order."""
        slots = self._by_width()
        each = [_field(s.feature.name, [s]) for s in slots]
        for sequence in self._sequences:
            sides = (sequence.slots.feature.side,)
            named = zip(sequence.names, sequence.columns, strict=True)
            each += [Field(name, sides, columns) for name, columns in named]
        numbers = self.layout.numbers
        if numbers and self.numeric_mode == "joint":
            each.append(_field("numbers", numbers))
        else:
            each += [
                _field(s.feature.name if s.width == 1 else f"{s.feature.name}_{i}", [s])
                for s in numbers
                for i in range(s.width)
            ]
        return Fields(tuple(each), self.problem.user_id, self.problem.scene)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return self.fields.names

    def build(self, input_shape: Any) -> None:
        """Makes the tables, the projections and the numbers' weights."""
        self._groups = []
        own = {w for table, w in self._table_widths.items() if table not in self._borrowed}
        for width in sorted(own):
            self._groups.append(self._build_table(width))
        self._build_borrowed()
        for sequence in self._sequences:
            sequence.build(None)
        number_columns = _columns(self.layout.numbers)
        self._number_columns = number_columns
        if number_columns:
            if self.copies > 1:
                self._build_numbers_of_copies(len(number_columns))
            elif self.numeric_mode == "joint":
                widths = [(units, "relu") for units in self.numeric_units] + [(self.dim, None)]
                self.number_dense = keras.Sequential(
                    [
                        keras.layers.Dense(units, activation, dtype=self.dtype)
                        for units, activation in widths
                    ],
                    name="numbers",
                )
                self.number_dense.build([None, len(number_columns)])
            else:
                shape = [len(number_columns), self.dim]
                self.number_kernel = self.add_weight(
                    name="numbers/kernel", shape=shape, initializer="glorot_uniform"
                )
                self.number_bias = self.add_weight(
                    name="numbers/bias", shape=shape, initializer="zeros"
                )
        super().build(input_shape)

    def reset_tables(self, seed: int) -> None:
        """Gives every table new random rows, as those it was made with.

        Args:
            seed: Seed of the rows.
        """
        for i, (name, table) in enumerate(self.tables.items()):
            initializer = RowInitializer(self._zero_rows[name], self.stddev, seed + i)
            table.assign(initializer(table.shape, table.dtype))

    def call(
        self,
        packed: Mapping[str, tf.Tensor],
        training: bool = False,
        copy: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns `[batch, fields, dim]`."""
        return self.embed(packed, copy)[0]

    def embed(
        self, packed: Mapping[str, tf.Tensor], copy: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the fields and `Σ‖e‖²` over the looked-up rows, for weight decay.

        Args:
            packed: Packed tensors.
            copy: Which of the `copies` each row reads, int32 `[batch]`; none where there is one.

        Raises:
            ValueError: `copy` is missing, or there is but one.
        """
        self.ensure_built()
        fields, squares = [], tf.constant(0.0)
        numbers = self._concat(packed, "numbers", self.layout.number_columns)
        if self.layout.id_width:
            ids = tf.cast(self._concat(packed, "ids", self.layout.id_columns), tf.int32)
        if (copy is None) != (self.copies == 1):
            raise ValueError(
                f"{self.name}: copies={self.copies} and copy={copy}; give each row's copy where "
                "there are several, and none where there is one."
            )
        tiles = None if copy is None else tiles_of(copy)
        for group in self._groups:
            if not group.slots:
                continue
            columns = ids if group.columns is None else tf.gather(ids, group.columns, axis=1)
            places = columns + group.offsets
            if copy is not None:
                places += copy[:, tf.newaxis] * group.rows
            rows = tf.where(columns < 0, tf.zeros_like(columns), places)
            looked_up = tf.gather(self.tables[group.name], rows)
            squares += 2.0 * tf.nn.l2_loss(looked_up)
            pooled = self._pool(group.slots, looked_up, columns, numbers)
            fields.append(_project(pooled, group.projection, tiles))
        for s in self._borrowed_slots:
            columns = ids[:, s.start : s.start + s.width]
            looked_up = self.look_up(s.feature.table, columns)
            squares += tf.reduce_sum(tf.square(looked_up))
            pooled = self._pool([s], looked_up, columns, numbers)
            fields.append(_project(pooled, self._projection(s.feature.table), tiles))
        for sequence in self._sequences:
            of_sequence, more = sequence(
                ids,
                look_up=lambda table, places: self.look_up(table, places, copy),
                project=lambda table, vectors: _project(vectors, self._projection(table), tiles),
            )
            fields.append(of_sequence)
            squares += more
        if self._number_columns:
            if len(self._number_columns) != self.layout.number_width:
                numbers = tf.gather(numbers, self._number_columns, axis=1)
            if copy is not None:
                fields.append(self._numbers_of_copies(numbers, copy, tiles))
            elif self.numeric_mode == "joint":
                fields.append(self.number_dense(numbers)[:, tf.newaxis, :])
            else:
                fields.append(numbers[:, :, tf.newaxis] * self.number_kernel + self.number_bias)
        return tf.concat(fields, axis=1), squares

    def look_up(self, table: str, ids: tf.Tensor, copy: tf.Tensor | None = None) -> tf.Tensor:
        """Rows of a table, `[…, width]`, for ids `[batch, …]`; zeros for padding.

        Args:
            table: Its name, see `tfmtl.declare.layout.tables_of`.
            ids: Ids of its feature.
            copy: As in `embed`.
        """
        if table in self._borrowed:
            rows: tf.Tensor = self._borrowed[table](table, ids)
            return rows
        name, start, block = self._starts[table]
        places = ids + start
        if copy is not None:
            places += tf.reshape(copy, [-1] + [1] * (ids.shape.rank - 1)) * block
        return tf.gather(self.tables[name], tf.where(ids < 0, tf.zeros_like(ids), places))

    def _projection(self, table: str) -> Any:
        if table in self._borrowed:
            return self._borrowed_projections.get(table)
        name = self._starts[table][0]
        return next(group.projection for group in self._groups if group.name == name)

    def _lend_to(self, lender: "Embedding | None") -> None:
        """Finds which tables are the lender's, and forgets their widths here."""
        owned = {s.feature.table for s in self.layout.ids if getattr(s.feature, "of", None) is None}
        # Functions, so that Keras does not take the lender for a part of this layer.
        self._borrowed: dict[str, Any] = {}
        if lender is not None:
            self._borrowed = {
                table: lender.look_up
                for table in self._table_widths
                if table not in owned and table in lender._table_widths
            }
            self._build_lender = lender.ensure_built
        self._borrowed_slots = [s for s in self.layout.ids if s.feature.table in self._borrowed]

    def ensure_built(self) -> None:
        """Builds the layer, if it is not built."""
        if not self.built:
            with tf.init_scope():
                self.build(None)

    def _sequence(self, slots: SequenceSlots) -> SequenceFields:
        events = range(len(slots.feature.events))
        targets = {s.feature.name: s.start for s in self.layout.ids if not is_list(s.feature)}
        return SequenceFields(
            slots,
            widths=[self._table_widths[table_of(slots.feature, i)] for i in events],
            targets=targets,
            dim=self.dim,
            copies=self.copies,
            name=slots.feature.name,
        )

    def _by_width(self) -> list[Slots]:
        def key(s: Slots) -> tuple[bool, int]:
            return s.feature.table in self._borrowed, self._widths[s.feature.name]

        return sorted(self.layout.ids, key=key)

    def _build_table(self, width: int) -> Group:
        name, row = f"table_{width}", PAD_ROWS
        first: dict[str, int] = {}
        for table, of_table in self._table_widths.items():
            if of_table == width and table not in self._borrowed:
                first[table] = row
                row += self.table_rows[table]
        block = row - PAD_ROWS
        placed = {table: (name, start, block) for table, start in first.items()}
        self._starts = {**self._starts, **placed}
        slots = [s for s in self.layout.ids if s.feature.table in first]
        offsets = [first[s.feature.table] for s in slots for _ in range(s.width)]
        starts = [start + copy * block for copy in range(self.copies) for start in first.values()]
        self.tables[name] = self.add_weight(
            name=name,
            shape=[PAD_ROWS + self.copies * block, width],
            initializer=RowInitializer(starts, self.stddev),
        )
        self._zero_rows = {**self._zero_rows, name: starts}
        projection: tf.Variable | GroupedDense | None = None
        if width != self.dim and self.copies > 1:
            projection = self._of_copies(self.dim, width, f"{name}_projection", use_bias=False)
            self.projections[name] = projection
        elif width != self.dim:
            projection = self.add_weight(
                name=f"{name}/projection", shape=[width, self.dim], initializer="glorot_uniform"
            )
        columns = _columns(slots)
        everything = columns == list(range(self.layout.id_width))
        return Group(name, slots, None if everything else columns, offsets, projection, block)

    def _build_borrowed(self) -> None:
        """Builds the lender, and the projections of its tables, which are weights of this layer."""
        self._borrowed_projections: dict[str, tf.Variable] = {}
        if not self._borrowed:
            return
        self._build_lender()
        for table in self._borrowed:
            width = self._table_widths[table]
            if width != self.dim:
                self._borrowed_projections[table] = self.add_weight(
                    name=f"borrowed_{table}/projection",
                    shape=[width, self.dim],
                    initializer="glorot_uniform",
                )

    def _build_numbers_of_copies(self, count: int) -> None:
        if self.numeric_mode == "joint":
            widths = (count, *self.numeric_units, self.dim)
            pairs = zip(widths[1:], widths[:-1], strict=True)
            self.number_layers = [
                self._of_copies(units, width, f"numbers_{i}")
                for i, (units, width) in enumerate(pairs)
            ]
        else:
            # Glorot's limit of one copy: Keras would count the copies as inputs.
            limit = (6.0 / (count + self.dim)) ** 0.5
            shape = [self.copies, count * self.dim]
            self.number_kernel = self.add_weight(
                name="numbers/kernel",
                shape=shape,
                initializer=keras.initializers.RandomUniform(-limit, limit),
            )
            self.number_bias = self.add_weight(
                name="numbers/bias", shape=shape, initializer="zeros"
            )

    def _of_copies(self, units: int, width: int, name: str, **more: Any) -> GroupedDense:
        layer = GroupedDense(self.copies, units, name=name, dtype=self.dtype, **more)
        with tf.name_scope(name):
            layer.build((None, width))
        return layer

    def _numbers_of_copies(self, numbers: tf.Tensor, copy: tf.Tensor, tiles: Any) -> tf.Tensor:
        if self.numeric_mode == "joint":
            for layer in self.number_layers[:-1]:
                numbers = tf.nn.relu(layer(numbers, tiles))
            return self.number_layers[-1](numbers, tiles)[:, tf.newaxis, :]
        shape = [-1, len(self._number_columns), self.dim]
        kernel, bias = (
            tf.reshape(tf.gather(weight, copy), shape)
            for weight in (self.number_kernel, self.number_bias)
        )
        return numbers[:, :, tf.newaxis] * kernel + bias

    def _pool(
        self,
        slots: Sequence[Slots],
        looked_up: tf.Tensor,
        columns: tf.Tensor,
        numbers: Any,
    ) -> tf.Tensor:
        if all(s.width == 1 and not is_list(s.feature) for s in slots):
            return looked_up
        fields, at = [], 0
        for s in slots:
            vectors = looked_up[:, at : at + s.width]
            if isinstance(s.feature, Categorical) and is_list(s.feature):
                weights = tf.cast(columns[:, at : at + s.width] >= 0, tf.float32)
                start = self.layout.weights.get(s.feature.name)
                if start is not None:
                    weights *= numbers[:, start : start + s.width]
                vectors = pooled(vectors, weights, s.feature.pooling)
            fields.append(vectors)
            at += s.width
        return tf.concat(fields, axis=1)

    def _concat(
        self, packed: Mapping[str, tf.Tensor], what: str, columns: Mapping[str, int]
    ) -> Any:
        parts = [packed[f"{what}_{side}"] for side in self.sides if columns[side]]
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def _project(vectors: tf.Tensor, projection: Any, tiles: Any) -> tf.Tensor:
    if projection is None:
        return vectors
    if isinstance(projection, GroupedDense):
        return projection(vectors, tiles)
    return tf.matmul(vectors, projection)


def _columns(slots: Iterable[Slots]) -> list[int]:
    return [column for s in slots for column in range(s.start, s.start + s.width)]


def _field(name: str, slots: Sequence[Slots]) -> Field:
    features = [s.feature for s in slots]
    columns = (column.name for feature in features for column in feature.columns())
    return Field(
        name,
        tuple(dict.fromkeys(feature.side for feature in features)),
        tuple(dict.fromkeys(columns)),
    )
