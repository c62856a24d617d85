"""Several networks in one: members that share all weights but a few vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras


class Members(keras.layers.Layer):
    """Adapters that make one network into an ensemble (TabM-mini: Gorishniy et al., ICLR 2025).

    Each member reads the fields times a vector of its own, of signs that start at random, and its
    representation is scaled and shifted by vectors of its own. Everything between is shared: the
    members are further rows of one batch. Each has a loss of its own; what is served is the mean of
    their predictions.

    TabM has separate output layers per member. Here a member scales and shifts what the shared
    tower reads (our choice: the towers and their links between tasks then need not know).

    Args:
        count: Number of members.
        tasks: Tasks with a representation of their own.

    References:
        arXiv 2410.24210; the adapters are those of BatchEnsemble (Wen et al., ICLR 2020).
    """

    def __init__(self, count: int, tasks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.tasks = count, tuple(tasks)
        self.signs: dict[str, tf.Variable] = {}
        self.gains: dict[str, tf.Variable] = {}
        self.offsets: dict[str, tf.Variable] = {}

    def spread(self, fields: Any) -> Any:
        """Returns `[batch · members, fields, dim]` of `[batch, fields, dim]`.

        A row's members stand together: row `i` becomes the rows `i · members …`.

        Args:
            fields: Those of one embedding, or of several by name.
        """
        if isinstance(fields, Mapping):
            return {name: self._spread(f"_{name}", of_name) for name, of_name in fields.items()}
        return self._spread("", fields)

    def _spread(self, name: str, fields: tf.Tensor) -> tf.Tensor:
        _, width, dim = fields.shape
        if name not in self.signs:
            # Named like a norm's gain, which has no weight decay; see `tfmtl.layers.decay`.
            self.signs[name] = self.add_weight(
                name=f"gamma_fields{name}",
                shape=[self.count, width, dim],
                initializer=random_signs,
            )
        # Not by `call`, where Keras would cast them itself under mixed precision.
        signs = tf.cast(self.signs[name], fields.dtype)
        return tf.reshape(fields[:, tf.newaxis] * signs, [-1, width, dim])

    def repeated(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Tensors of each row `[batch, …]` for the members' rows `[batch · members, …]`."""
        return {name: tf.repeat(value, self.count, axis=0) for name, value in values.items()}

    def adapted(self, representations: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Each task's representations `[batch · members, width]`, by the members' own vectors."""
        return {task: self._adapted(task, h) for task, h in representations.items()}

    def _adapted(self, task: str, representation: tf.Tensor) -> tf.Tensor:
        width = representation.shape[-1]
        if task not in self.gains:
            shape = [self.count, width]
            self.gains[task] = self.add_weight(
                name=f"gamma_{task}", shape=shape, initializer="ones"
            )
            self.offsets[task] = self.add_weight(
                name=f"beta_{task}", shape=shape, initializer="zeros"
            )
        members = tf.reshape(representation, [-1, self.count, width])
        gain, offset = (tf.cast(of[task], members.dtype) for of in (self.gains, self.offsets))
        return tf.reshape(members * gain + offset, [-1, width])

    def mean(self, predictions: tf.Tensor) -> tf.Tensor:
        """The members' mean, `[batch]`, of their predictions `[batch · members]`."""
        return tf.reduce_mean(tf.reshape(predictions, [-1, self.count]), axis=1)


def random_signs(shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
    """Ones and minus ones, with equal chance."""
    chance = keras.initializers.RandomUniform(-1.0, 1.0)(shape)
    return tf.cast(tf.where(chance < 0, -1.0, 1.0), dtype or tf.float32)
