"""The loss that makes the tasks choose different experts (AutoMTL, section 3.4.2)."""

import tensorflow as tf

SMALLEST = 1e-12
"""Added under the root, whose gradient would else be NaN for equal distributions."""


def selection_loss(beta: tf.Tensor) -> tf.Tensor:
    """`−Σ_{i<j} log(1 + ‖p_i − p_j‖₂)`, with `p` the softmax of each row.

    Eq. 2 of the paper has no minus, and eq. 3 minimises it, which would make the distributions
    equal. The text and Figure 3 say that they become different, as they do with the minus. The loss
    is between 0 and `−log(1 + √2)` per pair of tasks. Its gradient is zero if two rows are exactly
    equal, so they must not start equal.

    Args:
        beta: `[tasks, experts]`, the logits of the experts per task.

    Example:
        >>> even = tf.zeros([2, 4])
        >>> f"{float(selection_loss(even)):.3f}"
        '-0.000'
        >>> f"{float(selection_loss(100 * tf.eye(2))):.3f}"
        '-0.881'
    """
    shares = tf.nn.softmax(beta)
    rows = tf.unstack(shares)
    apart = [
        tf.sqrt(tf.reduce_sum(tf.square(one - other)) + SMALLEST)
        for i, one in enumerate(rows)
        for other in rows[i + 1 :]
    ]
    if not apart:
        return tf.zeros([], shares.dtype)
    return -tf.add_n([tf.math.log1p(distance) for distance in apart])
