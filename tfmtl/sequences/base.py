"""What every pooling of a sequence is: the embedded events of a row in, one vector out."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.declare.columns import FIRST
from tfmtl.declare.sequences import AGE_BUCKETS, SequenceFeature
from tfmtl.errors import SpecError

POSITIONS = ("none", "place", "age")
AGES = AGE_BUCKETS + FIRST
"""Ids of ages: unknown and missing, then the buckets."""

Events = Mapping[str, tf.Tensor]
"""The embedded events of a batch, by name:

- `matched` `[batch, L, Dm]`: the columns that are `of` a feature, side by side;
- `others` `[batch, L, Dx]`: the other columns; `Dx` may be 0, and so may `Dm`;
- `target` `[batch, Dm]`: the row's own values of those features, in the order of `matched`;
- `mask` bool `[batch, L]`: where there is an event; events stand newest first;
- `ages` int32 `[batch, L]`: ids of ages, 1 = missing, `2 + b` for bucket `b`; only where the
  sequence has times.
"""


class SequencePooling(Arguments, keras.layers.Layer, abc.ABC):
    """Maps the events of a row to one vector `[batch, width]`.

    What lies where `mask` is false must change neither output nor gradient. A row without events
    may have any finite output: what stands for it is learned elsewhere.
    """

    reads_target: ClassVar[bool] = False
    """Whether the row's own values are read, so that a user's tower cannot be served alone."""

    keeps_columns: ClassVar[bool] = True
    """Whether the vector is `[batch, Dm + Dx]`, every column pooled for itself by common weights.

    Else columns are mixed, and the sequence is one field.
    """

    has_weights: ClassVar[bool] = True
    """Whether there is anything to train; it would belong to all scenes, tasks or components."""

    @classmethod
    def check_columns(cls, feature: SequenceFeature) -> None:
        """Refuses a sequence whose columns the pooling cannot read.

        Args:
            feature: The sequence.

        Raises:
            SpecError: There is nothing to compare with the row's own values; or one field is asked
                for per column, and the pooling mixes columns.
        """
        name = feature.pooling["name"]
        if cls.reads_target and all(event.of is None for event in feature.events):
            raise SpecError(
                f"pooling={name!r} compares events with the row's own values, and no event has "
                "of=. Give event(…, of='ad_id'), or a pooling that does not, such as 'mean'."
            )
        if feature.fields == "each" and not cls.keeps_columns:
            raise SpecError(
                f"pooling={name!r} mixes the columns, so fields='each' has nothing to separate; "
                "leave fields= out."
            )

    @abc.abstractmethod
    def call(self, events: Events) -> tf.Tensor:
        """Returns `[batch, Dm + Dx]`, or `[batch, width]` where columns are mixed.

        Args:
            events: See `Events`.
        """


class Positions(keras.layers.Layer):
    """A learned vector of each event's place or age, `[1 or batch, L, dim]`.

    Args:
        position: `place` (the newest event is at place 0), `age`, or `None`: age where there are
            times, else place.
    """

    def __init__(self, position: str | None, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.position, self.dim = position, dim

    def build(self, shapes: Mapping[str, Any]) -> None:
        if self.position == "age" and "ages" not in shapes:
            raise SpecError(
                f"{self.name}: position='age' needs the events' ages; give sequence(time=…)."
            )
        self.by_age = self.position == "age" or (self.position is None and "ages" in shapes)
        rows = AGES if self.by_age else shapes["mask"][1]
        self.table = self.add_weight(
            name="bias_position",
            shape=[rows, self.dim],
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        super().build(shapes)

    def call(self, events: Events) -> tf.Tensor:
        if not self.by_age:
            return self.table[tf.newaxis]
        # A product and not a look-up: optimizers and balancers then see a dense gradient.
        chosen = tf.one_hot(events["ages"], AGES, dtype=self.table.dtype)
        return tf.tensordot(chosen, self.table, 1)


def positions_of(position: str | None, dim: int, shapes: Mapping[str, Any]) -> Positions | None:
    """The vectors of places or ages that a pooling adds, built; `None` for the position `none`.

    Args:
        position: As in `Positions`, or `none`.
        dim: Width of the events' vectors.
        shapes: Those of the events, as `SequencePooling.build` has them.

    Raises:
        SpecError: The position is the age, and the events have none.
    """
    if position == "none":
        return None
    positions = Positions(position, dim, name="positions")
    positions.build(shapes)
    return positions


def check_position(owner: str, position: str | None) -> None:
    """Refuses a position that there is not.

    Raises:
        SpecError: It is none of `POSITIONS` or `None`.
    """
    if position is not None and position not in POSITIONS:
        raise SpecError(f"{owner}: position={position!r} is none of {list(POSITIONS)}, or None.")


def check_at_least(owner: str, **numbers: int) -> None:
    """Refuses numbers below 1.

    Raises:
        SpecError: One is.
    """
    for name, value in numbers.items():
        if value < 1:
            raise SpecError(f"{owner}: {name}={value} must be at least 1.")


def joined(events: Events) -> tf.Tensor:
    """The events' vectors of all columns, `[batch, L, Dm + Dx]`, anything where there is none."""
    vectors = [events[name] for name in ("matched", "others") if events[name].shape[-1]]
    return vectors[0] if len(vectors) == 1 else tf.concat(vectors, axis=-1)


def zeroed(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Values `[batch, L, …]`, zero where there is no event, and so are their gradients."""
    return tf.where(mask[:, :, tf.newaxis], values, tf.zeros_like(values))


def masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """The softmax over the events that there are; zeros in a row without events.

    Args:
        scores: `[batch, …, L]`.
        mask: Bool, of the same rank, broadcast over the scores.
    """
    # Finite, so that a row without events has no NaN. Its weights, which would all be equal, are
    # made zero by the mask; in other rows masked scores are already zero after `exp`.
    lowest = tf.where(mask, scores, scores.dtype.min)
    return tf.nn.softmax(lowest) * tf.cast(mask, scores.dtype)


def weighted_sum(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`Σᵢ wᵢ vᵢ`, `[batch, width]`, of weights `[batch, L]` and values `[batch, L, width]`.

    Where a weight is 0, a finite value changes nothing, and its gradient is exactly 0.
    """
    return tf.squeeze(tf.matmul(weights[:, tf.newaxis], values), axis=1)
