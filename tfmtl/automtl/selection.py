"""The loss that drives the tasks' choices of experts apart (AutoMTL, section 3.4.2)."""

import tensorflow as tf

SMALLEST = 1e-12
"""Under the root: without it the gradient of equal distributions is no number."""


def selection_loss(beta: tf.Tensor) -> tf.Tensor:
    """`−Σ_{i<j} log(1 + ‖p_i − p_j‖₂)`, with `p` the softmax of each row.

    Eq. 2 of the paper prints it without the minus, and eq. 3 minimises it, which would drive the
    distributions together; the text and Figure 3 have them driven apart, and so does the minus. It
    lies between 0 and `−log(1 + √2)` a pair of tasks. Where two rows are exactly equal it is at
    rest, so that they must not start so.

    Args:
        beta: `[tasks, experts]`, each task's logits of the experts.

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
