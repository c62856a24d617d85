"""Predictions of a model that has adapted to a few rows, and forgets them again."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tfmtl.declare.meta import Meta
from tfmtl.features.rows import READ_ROWS, ArrayRows
from tfmtl.meta.inner_loop import adapt
from tfmtl.meta.train import inner_of
from tfmtl.model.multitask import MultiTaskModel


class FewShot:
    """A model that adapts to some rows, predicts others and is then as it was.

    Traced twice, with and without adaptation, for any number of rows: nothing is padded, since
    padding would count in means over a batch, such as that of the weight decay.

    Args:
        model: A built model.
        meta: How it adapts.
        rows: Packed rows, which are then named by their places.
    """

    def __init__(self, model: MultiTaskModel, meta: Meta, rows: ArrayRows) -> None:
        self.model, self.inner, self.rows = model, inner_of(model, meta), rows
        places = tf.TensorSpec([None], tf.int32)
        self._plain = tf.function(self._predict, [places], autograph=False)
        self._adapted = tf.function(self._adapt_and_predict, [places, places], autograph=False)

    def __call__(
        self, support: NDArray[np.int32], query: NDArray[np.int32]
    ) -> dict[str, NDArray[np.float32]]:
        """Returns `{task: predictions [query]}` after adapting to the rows of `support`, if any."""
        parts = []
        for start in range(0, len(query), READ_ROWS):
            asked = tf.constant(query[start : start + READ_ROWS], tf.int32)
            # Of many rows each part adapts anew, to the same: k rows cost less than the part.
            some = self._adapted(tf.constant(support, tf.int32), asked) if len(support) else None
            parts.append(self._plain(asked) if some is None else some)
        return {task: np.concatenate([part[task].numpy() for part in parts]) for task in parts[0]}

    def _predict(self, places):
        return self.model(self._gather(places), training=False)

    def _adapt_and_predict(self, support, query):
        adapted = adapt(
            # Not as in training: k rows are no batch to normalise by.
            lambda packed: self.model.compute_loss(packed, training=False),
            self._gather(support),
            self.inner,
        )
        found = self._predict(query)
        adapted.restore()
        return found

    def _gather(self, places):
        return {name: tf.gather(value, places) for name, value in self.rows.tensors.items()}
