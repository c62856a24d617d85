"""Attention between two tasks (Luo et al., 2022, section 3.2.3)."""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.errors import did_you_mean
from tfmtl.layers.experts import Experts, ParallelDense

MODES = ("aitm", "sdpa", "concat")


@keras.saving.register_keras_serializable(package="tfmtl")
class TaskAttention(Arguments, keras.layers.Layer):
    """Mixes a task's representation with that of an adjacent task, by attention over the two.

    For several ordered pairs of tasks (from the adjacent one, to the task itself) at once; each
    pair has its own weights, and all pairs are one matrix product per layer. The paper prints
    `C_ij = a_t(x_i ‖ x_j)` with query, key and value from feed-forward networks, and leaves open
    which score it takes and of what the weights are. Here there are two tokens, a dense layer with
    ReLU of the adjacent task's representation, and the task's own; the result is the sum of their
    values by weights that are a softmax over the two.

    | `mode` | a token's score |
    |---|---|
    | `aitm` | its own query and key, `⟨q_u, k_u⟩ / √d` (Xi et al., KDD 2021) |
    | `sdpa` | its key and the query of the task's own token, `⟨q_own, k_u⟩ / √d` |
    | `concat` | one dense layer of both tokens side by side, without query or key |

    `aitm` is the default: the attention networks the paper cites are by that method's authors.
    `sdpa` is the task's own row of scaled dot-product attention (Vaswani et al., NeurIPS 2017).

    Maps `adjacent` and `own`, both `[batch, num_pairs, d]`, to `[batch, num_pairs, d]`.

    Args:
        num_pairs: How many ordered pairs.
        mode: As above.
        use_bias: Whether queries, keys, values and the scores of `concat` have a bias. The keys
            of `sdpa` have none: it would add the same to both scores.

    Raises:
        ValueError: There is no pair, or the mode is unknown.

    Example:
        >>> attention = TaskAttention(2)
        >>> attention(tf.ones([4, 2, 8]), tf.ones([4, 2, 8])).shape
        TensorShape([4, 2, 8])
    """

    def __init__(
        self, num_pairs: int, *, mode: str = "aitm", use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_mode(self.name, mode)
        if num_pairs < 1:
            raise ValueError(f"{self.name}: at least 1 pair of tasks; got {num_pairs}.")
        self.num_pairs, self.mode, self.use_bias = num_pairs, mode, use_bias

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        if len(shape) != 3 or shape[1] != self.num_pairs:
            raise ValueError(f"{self.name}: reads [batch, {self.num_pairs}, d]; got {shape}.")
        width = shape[-1]

        def dense(units: int, name: str, use_bias: bool = self.use_bias) -> ParallelDense:
            return ParallelDense(self.num_pairs, units, use_bias=use_bias, name=name)

        self.passing = Experts(self.num_pairs, (width,), name="passing")
        read: dict[str, int] = {"passing": width, "value": width}
        self.value = dense(width, "value")
        if self.mode == "concat":
            self.score = dense(2, "score")
            read["score"] = 2 * width
        else:
            self.query = dense(width, "query")
            self.key = dense(width, "key", self.use_bias and self.mode != "sdpa")
            read |= {"query": width, "key": width}
        for name, wide in read.items():
            with tf.name_scope(name):
                getattr(self, name).build((None, self.num_pairs, wide))
        super().build(input_shape)

    def call(self, adjacent: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        tokens = self._tokens(adjacent, own)
        values = self._projected(self.value, tokens)
        return tf.einsum("bpu,bupd->bpd", self._weights(tokens), values)

    def weights_of(self, adjacent: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        """The weights of the adjacent task and of the task itself, `[batch, num_pairs, 2]`.

        Args:
            adjacent: The adjacent tasks' representations, `[batch, num_pairs, d]`.
            own: The tasks' representations, likewise.
        """
        if not self.built:
            self.build(adjacent.shape)
        return self._weights(self._tokens(adjacent, own))

    def _tokens(self, adjacent: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        return tf.stack([self.passing(adjacent), own], axis=1)

    def _projected(self, dense: Any, tokens: tf.Tensor) -> tf.Tensor:
        """`[batch, 2, pairs, units]`: tokens become rows, so that one product does for both."""
        width = tokens.shape[-1]
        rows = dense(tf.reshape(tokens, [-1, self.num_pairs, width]))
        return tf.reshape(rows, [-1, 2, self.num_pairs, dense.units])

    def _weights(self, tokens: tf.Tensor) -> tf.Tensor:
        if self.mode == "concat":
            scores = self.score(tf.concat(tf.unstack(tokens, axis=1), axis=-1))
            return tf.nn.softmax(scores, axis=-1)
        keys = self._projected(self.key, tokens)
        if self.mode == "sdpa":
            queries = self.query(tokens[:, 1])[:, tf.newaxis]
        else:
            queries = self._projected(self.query, tokens)
        scores = tf.reduce_sum(queries * keys, axis=-1) / float(tokens.shape[-1]) ** 0.5
        return tf.nn.softmax(tf.transpose(scores, [0, 2, 1]), axis=-1)


def check_mode(name: str, mode: str) -> None:
    """Refuses an unknown mode.

    Args:
        name: Of the layer that was given it.
        mode: One of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(
            f"{name}: mode={mode!r} is none of {list(MODES)}.{did_you_mean(mode, MODES)}"
        )
