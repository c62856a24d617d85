"""Methods of gradient surgery as functions of the tasks' inner products alone.

Every method here returns the coefficients of a combination `Σ c_k g_k` of the tasks' gradients.
They depend on the gradients through their Gram matrix, `G_ij = ⟨g_i, g_j⟩`, alone, so the work is
on `K × K` numbers in float64, however many parameters there are. Coefficients of 1 are the plain
sum of the gradients.

A task without a gradient has a row and a column of zeros. It conflicts with no other task, is in no
minimum, and its own coefficient has no meaning.
"""

import tensorflow as tf

STEPS = 250
"""Maximum number of steps of the Frank-Wolfe search."""

GAP = 1e-8
"""The search ends when the value is at most this far above the minimum, relative to the largest
norm."""

ZERO = 3e-4
"""A combination counts as zero if its length is below this share of the sum of its parts' lengths:
the square root of float32's rounding error, which inner products have."""


def pcgrad(gram: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Coefficients of PCGrad (Yu et al., NeurIPS 2020, algorithm 1), `[K]`.

    Each task's gradient meets the other tasks' gradients in turn. Where the two conflict, its part
    along the other one is subtracted. The update is the sum of the results. A projected gradient
    stays a combination of the tasks' gradients; one row of coefficients per task describes it.

    Args:
        gram: `[K, K]`.
        order: `[K, K]`; row `i` is a permutation of the tasks, in which task `i` meets them.

    Example:
        >>> gram = tf.constant([[1.0, -1.0], [-1.0, 4.0]])
        >>> pcgrad(gram, tf.constant([[0, 1], [0, 1]])).numpy().tolist()
        [2.0, 1.25]
    """
    gram, order = tf.cast(gram, tf.float64), tf.cast(order, tf.int32)
    count = gram.shape[0]
    norms = tf.linalg.diag_part(gram)
    rows = tf.eye(count, dtype=gram.dtype)
    itself = tf.range(count)
    for turn in range(count):
        other = order[:, turn]
        # ⟨g_i', g_j⟩ for every task i and the task j that it meets now; g_j is not projected.
        dots = tf.reduce_sum(rows * tf.gather(gram, other), axis=1)
        conflict = (dots < 0) & (other != itself)
        part = tf.where(conflict, tf.math.divide_no_nan(dots, tf.gather(norms, other)), 0.0)
        rows -= part[:, tf.newaxis] * tf.one_hot(other, count, dtype=gram.dtype)
    return tf.reduce_sum(rows, axis=0)


def min_norm(gram: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """The weights `α` of the shortest vector `Σ α_k g_k` in the gradients' convex hull, `[K]`.

    A step against that vector raises no task's loss, and it is zero if and only if no direction
    helps all tasks: the multiple-gradient descent algorithm (Désidéri, 2012; Sener and Koltun,
    NeurIPS 2018, eq. 3).

    Args:
        gram: `[K, K]`.
        active: `[K]`, boolean, the tasks that count; the others' weights are 0. With a task
            without a gradient the shortest vector would always be that zero gradient.

    Example:
        >>> gram = tf.constant([[1.0, 0.0], [0.0, 4.0]])
        >>> min_norm(gram, tf.constant([True, True])).numpy().tolist()
        [0.8, 0.2]
    """
    gram = tf.cast(gram, tf.float64)
    return least_on_simplex(gram, tf.zeros_like(gram[0]), tf.ones([], gram.dtype), active)


def cagrad(gram: tf.Tensor, active: tf.Tensor, c: float) -> tf.Tensor:
    """Coefficients of CAGrad (Liu et al., NeurIPS 2021, algorithm 1), `[K]`.

    In the ball of radius `c‖g_0‖` around the plain gradient `g_0`, this is the direction in which
    the task that gains least gains most: `g_0 + c‖g_0‖ g_w / ‖g_w‖`, where `w` on the simplex
    minimises `⟨g_w, g_0⟩ + c‖g_0‖‖g_w‖`. Here `g_0` is `Σ g_k` instead of the mean, which
    multiplies the result by `K` and does not change `w`.

    Args:
        gram: `[K, K]`.
        active: `[K]`, boolean, the tasks whose gain counts.
        c: At least 0; with 0 the result is the plain gradient.

    Example:
        >>> gram = tf.constant([[1.0, 0.0], [0.0, 1.0]])
        >>> cagrad(gram, tf.constant([True, True]), 0.5).numpy().tolist()
        [1.5, 1.5]
    """
    gram = tf.cast(gram, tf.float64)
    # Over all tasks: the gradients of tasks that are not active are zero.
    with_plain = tf.reduce_sum(gram, axis=1)
    radius = c * tf.sqrt(tf.maximum(tf.reduce_sum(with_plain), 0.0))
    weights = least_on_simplex(gram, with_plain, radius, active)
    length = _norm(gram, weights)
    # If the hull contains zero, no direction is better for all tasks.
    least = ZERO * tf.reduce_sum(weights * tf.sqrt(tf.linalg.diag_part(gram)))
    scale = tf.where(length > least, tf.math.divide_no_nan(radius, length), 0.0)
    return 1.0 + scale * weights


def least_on_simplex(
    gram: tf.Tensor, linear: tf.Tensor, scale: tf.Tensor, active: tf.Tensor
) -> tf.Tensor:
    """Minimises `⟨linear, w⟩ + scale · √(wᵀ G w)` over weights on the simplex; `[K]`, float64.

    Frank-Wolfe in its pairwise form (Lacoste-Julien and Jaggi, NeurIPS 2015): each step moves
    weight from the task with the largest slope to the one with the smallest. The best amount has a
    closed form, so two tasks need one step. More tasks converge at a linear rate, where the error
    of the plain form falls as one over the number of steps.

    Args:
        gram: `[K, K]`.
        linear: `[K]`.
        scale: At least 0.
        active: `[K]`, boolean, the tasks that may have weight; with none all weights are 0.
    """
    count = gram.shape[0]
    start = tf.cast(active, gram.dtype)
    start = tf.math.divide_no_nan(start, tf.reduce_sum(start))
    lengths = tf.sqrt(tf.linalg.diag_part(gram))
    largest = tf.reduce_max(tf.abs(linear)) + scale * tf.reduce_max(lengths)
    far = tf.constant(float("inf"), gram.dtype)

    def move(turn: tf.Tensor, weights: tf.Tensor, going: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pull = tf.linalg.matvec(gram, weights)
        a = tf.maximum(tf.reduce_sum(weights * pull), 0.0)
        slope = linear + scale * tf.math.divide_no_nan(pull, tf.sqrt(a))
        to = tf.argmin(tf.where(active, slope, far))
        away = tf.argmax(tf.where(active & (weights > 0), slope, -far))
        corner = tf.one_hot(away, count, dtype=gram.dtype)
        step = tf.one_hot(to, count, dtype=gram.dtype) - corner
        # Along the step the value is t·δ + scale·√(a + 2bt + ct²).
        pull = tf.linalg.matvec(gram, step)
        b, c = tf.reduce_sum(weights * pull), tf.maximum(tf.reduce_sum(step * pull), 0.0)
        delta = linear[to] - linear[away]
        curved = scale**2 * c - delta**2
        # If its slope is zero anywhere, it is at b + ct = −δ √((ac − b²) / (scale² c − δ²)).
        root = -delta * tf.sqrt(tf.math.divide_no_nan(tf.maximum(a * c - b**2, 0.0), curved))
        best = tf.where(curved > 0, tf.math.divide_no_nan(root - b, c), far)
        length = tf.clip_by_value(best, 0.0, weights[away])
        # A weight that is moved whole becomes exactly 0, without a rest from rounding.
        moved = tf.where(length < weights[away], weights + length * step, weights * (1 - corner))
        moved /= tf.reduce_sum(moved)
        # The value of a convex function is at most the difference of slopes above its minimum.
        going = (slope[away] - slope[to] > GAP * largest) & (length > 0)
        going &= tf.sqrt(a) > ZERO * tf.reduce_sum(weights * lengths)
        return turn + 1, tf.where(going, moved, weights), going

    _, weights, _ = tf.while_loop(
        lambda turn, weights, going: going & (turn < STEPS),
        move,
        [tf.constant(0), start, tf.reduce_any(active)],
    )
    return weights


def _norm(gram: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.maximum(tf.reduce_sum(weights * tf.linalg.matvec(gram, weights)), 0.0))
