"""Losses per example, from logits, and the one mean that all of them are reduced by.

Labels of rows on which a task is not observed mean nothing, and may be NaN. The functions
here take a `mask` and put zero in place of what it hides *before* computing: a mask applied
to the loss alone lets `0 · NaN` through in the gradient.
"""

import tensorflow as tf

LARGEST_LOG_PROB = -1e-7
"""Nearest to 0 that the log of a product of probabilities comes; `log1mexp(0)` is infinite."""


def hide(tensor: tf.Tensor, mask: tf.Tensor | None, *, fill: float = 0.0) -> tf.Tensor:
    """Returns `tensor` `[B]` with `fill` where the boolean `mask` `[B]` is false.

    No gradient reaches a hidden value, whatever it is. Without a mask nothing is hidden.
    """
    if mask is None:
        return tensor
    _check_shapes(tensor=tensor, mask=mask)
    return tf.where(tf.cast(mask, tf.bool), tensor, tf.cast(fill, tensor.dtype))


def binary_cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, *, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """Cross-entropy in nats, `[B]`, of labels in `[0, 1]` and logits, both `[B]`.

    A soft label `y` costs what `y` parts of a positive and `1 - y` of a negative do.

    Raises:
        ValueError: The shapes differ; `[B, 1]` against `[B]` would make `[B, B]`.
    """
    labels, logits = _inputs(labels, logits, mask)
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)


def focal(
    labels: tf.Tensor,
    logits: tf.Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """Cross-entropy of which rows that are predicted well have little (Lin et al., ICCV 2017).

    `α (1 − p)^γ (−log p)` of a positive and `(1 − α) p^γ (−log(1 − p))` of a negative, `[B]`
    (eq. 5); without `alpha` neither factor. A soft label has parts of both. The powers are of
    log-sigmoids, so that a saturated logit loses no digit and has a finite gradient for a
    `gamma` below 1 too. The least expected loss is not at the labels' rate: `p` is drawn
    towards a half.

    Args:
        labels: `[B]`, each in `[0, 1]`.
        logits: `[B]`.
        gamma: At least 0; 0 is the cross-entropy.
        alpha: Between 0 and 1.
        mask: `[B]`, true where the task is observed.
    """
    labels, logits = _inputs(labels, logits, mask)
    logs = tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
    return _focal(labels, *logs, gamma, alpha)


def squared_error(
    labels: tf.Tensor, predictions: tf.Tensor, *, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """The squared difference, `[B]`."""
    labels, predictions = _inputs(labels, predictions, mask)
    return tf.math.squared_difference(labels, predictions)


def huber(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    *,
    delta: float = 1.0,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """`r²/2` up to `|r| = delta` and linear beyond, `[B]` (Huber, 1964).

    For a large `delta` this is half of `squared_error`, so the task's weight means half as much.

    Args:
        labels: `[B]`, in units in which `delta` makes sense, such as standard deviations.
        predictions: `[B]`.
        delta: Residual at which outliers start, positive.
        mask: `[B]`, true where the task is observed.
    """
    size = _residual(labels, predictions, delta, mask)
    inner = tf.minimum(size, tf.cast(delta, size.dtype))
    return inner * (size - 0.5 * inner)


def pseudo_huber(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    *,
    delta: float = 1.0,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """`δ² (√(1 + (r/δ)²) − 1)`, `[B]`: as `huber`, but smooth (Hartley and Zisserman, 2003)."""
    size = _residual(labels, predictions, delta, mask)
    # Neither a difference of near numbers, which loses all digits of a small residual, nor a
    # square of a large one, which overflows.
    unit = tf.stop_gradient(tf.maximum(size, delta))
    root = unit * tf.sqrt(tf.square(delta / unit) + tf.square(size / unit))
    return delta * size * (size / (delta + root))


def log_cosh(
    labels: tf.Tensor,
    predictions: tf.Tensor,
    *,
    delta: float = 1.0,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """`δ² log cosh(r/δ)`, `[B]`: half the square near zero and `δ|r|` less a constant beyond."""
    size = _residual(labels, predictions, delta, mask) / delta
    # Near 0 as log(1 + sinh²)/2, for the other form loses all digits there; cosh and sinh
    # overflow beyond.
    near = size < 1.0
    inner = 0.5 * tf.math.log1p(tf.square(tf.sinh(tf.minimum(size, 1.0))))
    outer = size + tf.math.log1p(tf.exp(-2.0 * size)) - 0.6931471805599453
    return delta**2 * tf.where(near, inner, outer)


def product_log_prob(*logits: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """The log of the product of the probabilities of two or more logits, each `[B]`.

    `p(click) · p(conversion | click)` underflows, and its clipped logarithm has no gradient,
    where both are small; the sum of the log-sigmoids has neither fault. It is held at most at
    -1e-7 by value alone: the gradient passes as if it were not, or a row that is wrongly held
    for certain would teach nothing.

    Raises:
        ValueError: Fewer than two logits, or their shapes differ.
    """
    if len(logits) < 2:
        raise ValueError(f"a product has at least two factors; got {len(logits)} logits.")
    _check_shapes(**{f"logits[{i}]": x for i, x in enumerate(logits)})
    total = tf.add_n([tf.math.log_sigmoid(hide(x, mask)) for x in logits])
    held = LARGEST_LOG_PROB + (total - tf.stop_gradient(total))
    return tf.where(total > LARGEST_LOG_PROB, held, total)


def log1mexp(log_prob: tf.Tensor) -> tf.Tensor:
    """`log(1 - exp(log_prob))` for negative `log_prob`, precise at both ends (Mächler, 2012)."""
    log_half = tf.cast(-0.6931471805599453, log_prob.dtype)
    near = log_prob > log_half
    # Near 0 this branch is infinite, and so would be its gradient, taken or not.
    far_below = tf.where(near, log_half, log_prob)
    return tf.where(near, tf.math.log(-tf.math.expm1(log_prob)), tf.math.log1p(-tf.exp(far_below)))


def log_prob_cross_entropy(
    labels: tf.Tensor, log_prob: tf.Tensor, *, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """Cross-entropy in nats, `[B]`, of labels and a log-probability such as a product's.

    The loss of an entire-space model (Ma et al., SIGIR 2018). Where `log_prob` comes from
    `product_log_prob` on rows that hold NaN, give both the mask.

    Args:
        labels: `[B]`, each in `[0, 1]`.
        log_prob: `[B]`, negative.
        mask: `[B]`, true where the task is observed.
    """
    _check_shapes(labels=labels, log_prob=log_prob)
    labels = hide(tf.cast(labels, log_prob.dtype), mask)
    log_prob = hide(log_prob, mask, fill=-1.0)
    return -labels * log_prob - (1 - labels) * log1mexp(log_prob)


def log_prob_focal(
    labels: tf.Tensor,
    log_prob: tf.Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """As `focal`, of a log-probability such as a product's, as `log_prob_cross_entropy` takes it.

    Args:
        labels: `[B]`, each in `[0, 1]`.
        log_prob: `[B]`, negative.
        gamma: As in `focal`.
        alpha: As in `focal`.
        mask: `[B]`, true where the task is observed.
    """
    _check_shapes(labels=labels, log_prob=log_prob)
    labels = hide(tf.cast(labels, log_prob.dtype), mask)
    log_prob = hide(log_prob, mask, fill=-1.0)
    return _focal(labels, log_prob, log1mexp(log_prob), gamma, alpha)


def masked_mean(
    losses: tf.Tensor,
    mask: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
    *,
    reduction: str = "masked",
) -> tf.Tensor:
    """Reduces losses `[B]` to a scalar over the rows on which the task is observed.

    `masked` is the weighted mean `Σ m·w·l / Σ m·w` (our choice): a row of weight 2 is that row
    twice, a weight of 0 is a mask, and the unit of the weights does not change how the task
    stands against the others. `batch` is `Σ m·w·l / B`, unbiased for the sum over all data: a
    task observed on one row in fifty then weighs a fiftieth, and weights scale it.

    A batch without observed rows gives exactly 0 and a gradient of exactly 0 under both.

    Args:
        losses: `[B]`, computed with the same mask.
        mask: `[B]`, true where the task is observed; without it everywhere.
        weights: `[B]`, not negative; without them all 1.
        reduction: `masked` or `batch`.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
    """
    if reduction not in ("masked", "batch"):
        raise ValueError(f"reduction must be 'masked' or 'batch'; got {reduction!r}.")
    weights = tf.ones_like(losses) if weights is None else tf.cast(weights, losses.dtype)
    _check_shapes(losses=losses, weights=weights)
    weights = hide(weights, mask)
    total = tf.reduce_sum(weights * hide(losses, weights > 0))
    if reduction == "batch":
        return tf.math.divide_no_nan(total, tf.cast(tf.size(losses), total.dtype))
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights))


def _focal(labels, log_p, log_rest, gamma, alpha):
    """The loss `[B]` from `log p` and `log(1 - p)`."""
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0; got {gamma}.")
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    return (
        -positive * labels * tf.exp(gamma * log_rest) * log_p
        - negative * (1 - labels) * tf.exp(gamma * log_p) * log_rest
    )


def _inputs(
    labels: tf.Tensor, predictions: tf.Tensor, mask: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    _check_shapes(labels=labels, predictions=predictions)
    return hide(tf.cast(labels, predictions.dtype), mask), hide(predictions, mask)


def _residual(
    labels: tf.Tensor, predictions: tf.Tensor, delta: float, mask: tf.Tensor | None
) -> tf.Tensor:
    """The absolute residual of a robust loss, `[B]`."""
    if not delta > 0:
        raise ValueError(f"delta must be positive; got {delta}.")
    labels, predictions = _inputs(labels, predictions, mask)
    return tf.abs(labels - predictions)


def _check_shapes(**tensors: tf.Tensor) -> None:
    """Refuses tensors that would broadcast against each other, or are no vectors."""
    shapes = {name: tf.convert_to_tensor(t).shape for name, t in tensors.items()}
    first = next(iter(shapes.values()))
    for shape in shapes.values():
        if shape.rank not in (1, None) or not shape.is_compatible_with(first):
            found = ", ".join(f"{name} {list(s)}" for name, s in shapes.items())
            raise ValueError(f"these must be vectors of one length: {found}.")
