"""Training rows that do not see some of their ids, so that a network does not rely on one alone."""

from typing import Any

import tensorflow as tf
import tf_keras as keras


class IdDropout(keras.layers.Layer):
    """Gives some fields of ids the zero vector in training: that of a value never seen.

    Every field of every row is left out by itself. The others are not scaled up, unlike in dropout
    of hidden units, because a served row with an unknown id is not scaled either. When it does not
    train, the layer changes nothing.

    Args:
        rate: Share of fields that are left out, in `[0, 1)`.
        fields: How many fields are of ids; they come first.
    """

    def __init__(self, rate: float, fields: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.fields = rate, fields
        self.kept = keras.layers.Dropout(rate, noise_shape=(None, None, 1))

    def call(self, fields: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, fields, dim]`."""
        if not training or not self.rate:
            return fields
        ids = self.kept(fields[:, : self.fields], training=True) * (1.0 - self.rate)
        return tf.concat([ids, fields[:, self.fields :]], axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "fields": self.fields}
