"""Methods of gradient surgery as functions of the tasks' inner products alone.

Every method here ends in a combination `Σ c_k g_k` of the tasks' gradients, whose coefficients
depend on the gradients through their Gram matrix, `G_ij = ⟨g_i, g_j⟩`. So they are settled among
`K × K` numbers, in float64, however many parameters there are. A coefficient of 1 for every
task is the plain sum of the gradients.

A task without a gradient has a row and column of zeros. It conflicts with none, counts in no
minimum, and its own coefficient means nothing.
"""

import tensorflow as tf

STEPS = 250
"""Steps of the Frank-Wolfe search, at most."""

GAP = 1e-8
"""The search ends where it is certain to be this near the least value, of the largest norm."""

ZERO = 3e-4
"""Length, of what it would be without cancellation, below which a combination counts as zero: the
root of float32's rounding, to which inner products are known."""


def pcgrad(gram: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Coefficients of PCGrad (Yu et al., NeurIPS 2020, algorithm 1), `[K]`.

    Each task's gradient is taken off its part against each other task's, in turn, where the two
    conflict; the sum of the results is the update. A projected gradient stays a combination of
    the tasks' own, of which a row of coefficients is kept.

    Args:
        gram: `[K, K]`.
        order: `[K, K]`; row `i` is the order, of all tasks, in which task `i` meets the others.

    Example:
        >>> gram = tf.constant([[1.0, -1.0], [-1.0, 4.0]])
        >>> pcgrad(gram, tf.constant([[0, 1], [0, 1]])).numpy().tolist()
        [2.0, 1.25]
    """
    gram, order = tf.cast(gram, tf.float64), tf.cast(order, tf.int32)
    count = gram.shape[0]
    norms = tf.linalg.diag_part(gram)
    rows = tf.eye(count, dtype=gram.dtype)
    own = tf.range(count)
    for turn in range(count):
        other = order[:, turn]
        # ⟨g_i', g_j⟩ of every task i and the j it meets now; g_j is as it was.
        dots = tf.reduce_sum(rows * tf.gather(gram, other), axis=1)
        conflict = (dots < 0) & (other != own)
        part = tf.where(conflict, tf.math.divide_no_nan(dots, tf.gather(norms, other)), 0.0)
        rows -= part[:, tf.newaxis] * tf.one_hot(other, count, dtype=gram.dtype)
    return tf.reduce_sum(rows, axis=0)


def min_norm(gram: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """The weights `α` of the shortest vector `Σ α_k g_k` in the gradients' convex hull, `[K]`.

    That vector is no ascent for any task, and zero just where no direction helps all: the
    multiple-gradient descent algorithm (Désidéri, 2012; Sener and Koltun, NeurIPS 2018, eq. 3).

    Args:
        gram: `[K, K]`.
        active: `[K]`, boolean, the tasks that count; the others' weights are 0. The shortest
            vector with a task that has no gradient would always be that task's.

    Example:
        >>> gram = tf.constant([[1.0, 0.0], [0.0, 4.0]])
        >>> min_norm(gram, tf.constant([True, True])).numpy().tolist()
        [0.8, 0.2]
    """
    gram = tf.cast(gram, tf.float64)
    return least_on_simplex(gram, tf.zeros_like(gram[0]), tf.ones([], gram.dtype), active)


def cagrad(gram: tf.Tensor, active: tf.Tensor, c: float) -> tf.Tensor:
    """Coefficients of CAGrad (Liu et al., NeurIPS 2021, algorithm 1), `[K]`.

    Within a ball of radius `c‖g_0‖` around the plain gradient, the direction in which the task
    that gains least gains most: `g_0 + c‖g_0‖ g_w / ‖g_w‖`, where `w` on the simplex minimises
    `⟨g_w, g_0⟩ + c‖g_0‖‖g_w‖`. Here `g_0 = Σ g_k` instead of the mean, which multiplies all by
    `K` and leaves `w` as it is.

    Args:
        gram: `[K, K]`.
        active: `[K]`, boolean, the tasks whose gain counts.
        c: At least 0, where the result is the plain gradient.

    Example:
        >>> gram = tf.constant([[1.0, 0.0], [0.0, 1.0]])
        >>> cagrad(gram, tf.constant([True, True]), 0.5).numpy().tolist()
        [1.5, 1.5]
    """
    gram = tf.cast(gram, tf.float64)
    # Their sum is the plain gradient whichever of them count: the others' are zero.
    with_plain = tf.reduce_sum(gram, axis=1)
    radius = c * tf.sqrt(tf.maximum(tf.reduce_sum(with_plain), 0.0))
    weights = least_on_simplex(gram, with_plain, radius, active)
    length = _norm(gram, weights)
    # Where the hull holds zero no direction is better for all.
    least = ZERO * tf.reduce_sum(weights * tf.sqrt(tf.linalg.diag_part(gram)))
    scale = tf.where(length > least, tf.math.divide_no_nan(radius, length), 0.0)
    return 1.0 + scale * weights


def least_on_simplex(
    gram: tf.Tensor, linear: tf.Tensor, scale: tf.Tensor, active: tf.Tensor
) -> tf.Tensor:
    """Minimises `⟨linear, w⟩ + scale · √(wᵀ G w)` over weights on the simplex; `[K]`, float64.

    Frank-Wolfe in its pairwise form (Lacoste-Julien and Jaggi, NeurIPS 2015): each step moves
    weight from the task whose weight costs most to the one whose costs least, as much as is
    best, which has a closed form. Two tasks are therefore settled in one step, and more at a
    linear rate instead of the plain form's one over the number of steps.

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

    def move(turn, weights, going):
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
        # Its slope is zero at b + ct = −δ √((ac − b²) / (scale² c − δ²)), if anywhere.
        root = -delta * tf.sqrt(tf.math.divide_no_nan(tf.maximum(a * c - b**2, 0.0), curved))
        best = tf.where(curved > 0, tf.math.divide_no_nan(root - b, c), far)
        length = tf.clip_by_value(best, 0.0, weights[away])
        # A corner that is left is left for good, not but for the last digit.
        moved = tf.where(length < weights[away], weights + length * step, weights * (1 - corner))
        moved /= tf.reduce_sum(moved)
        # A convex function lies at most the difference of slopes above its least value.
        going = (slope[away] - slope[to] > GAP * largest) & (length > 0)
        going &= tf.sqrt(a) > ZERO * tf.reduce_sum(weights * lengths)
        return turn + 1, tf.where(going, moved, weights), going

    _, weights, _ = tf.while_loop(
        lambda turn, weights, going: going & (turn < STEPS),
        move,
        [tf.constant(0), start, tf.reduce_any(active)],
    )
    return weights


def _norm(gram, weights):
    return tf.sqrt(tf.maximum(tf.reduce_sum(weights * tf.linalg.matvec(gram, weights)), 0.0))
