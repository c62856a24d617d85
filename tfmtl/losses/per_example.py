"""What losses per example share: the mask, products in log space, and the one mean.

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
    check_vectors(tensor=tensor, mask=mask)
    return tf.where(tf.cast(mask, tf.bool), tensor, tf.cast(fill, tensor.dtype))


def product_log_prob(*logits: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """The log of the product of the probabilities of two or more logits, each `[B]`.

    `p(click) · p(conversion | click)` underflows, and its clipped logarithm has no gradient,
    where both are small; the sum of the log-sigmoids has neither fault. Its value is clipped to at
    most -1e-7, and its gradient is not: otherwise a row that is wrongly predicted as certain would
    have no gradient.

    Raises:
        ValueError: Fewer than two logits, or their shapes differ.
    """
    if len(logits) < 2:
        raise ValueError(f"a product has at least two factors; got {len(logits)} logits.")
    check_vectors(**{f"logits[{i}]": x for i, x in enumerate(logits)})
    total = tf.add_n([tf.math.log_sigmoid(hide(x, mask)) for x in logits])
    clipped = LARGEST_LOG_PROB + (total - tf.stop_gradient(total))
    return tf.where(total > LARGEST_LOG_PROB, clipped, total)


def log1mexp(log_prob: tf.Tensor) -> tf.Tensor:
    """`log(1 - exp(log_prob))` for negative `log_prob`, precise at both ends (Mächler, 2012)."""
    log_half = tf.cast(-0.6931471805599453, log_prob.dtype)
    near = log_prob > log_half
    # Near 0 this branch is infinite, and its gradient would be NaN even where it is not taken.
    far_below = tf.where(near, log_half, log_prob)
    return tf.where(near, tf.math.log(-tf.math.expm1(log_prob)), tf.math.log1p(-tf.exp(far_below)))


def masked_mean(
    losses: tf.Tensor,
    mask: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
    *,
    reduction: str = "masked",
) -> tf.Tensor:
    """Reduces losses `[B]` to a scalar over the rows on which the task is observed.

    `masked` is the weighted mean `Σ m·w·l / Σ m·w` (our choice): a row of weight 2 counts as that
    row twice, a weight of 0 is a mask, and the unit of the weights does not change the task's
    weight among the others. `batch` is `Σ m·w·l / B`, unbiased for the sum over all data: a task
    observed on one row in fifty then weighs a fiftieth, and weights scale it.

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
    check_vectors(losses=losses, weights=weights)
    weights = hide(weights, mask)
    total = tf.reduce_sum(weights * hide(losses, weights > 0))
    if reduction == "batch":
        return tf.math.divide_no_nan(total, tf.cast(tf.size(losses), total.dtype))
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights))


def check_vectors(**tensors: tf.Tensor) -> None:
    """Refuses tensors that would broadcast against each other, or are no vectors.

    Args:
        **tensors: By the name that the message gives them.

    Raises:
        ValueError: Two lengths differ, or a tensor is no vector.
    """
    shapes = {name: tf.convert_to_tensor(t).shape for name, t in tensors.items()}
    first = next(iter(shapes.values()))
    for shape in shapes.values():
        if shape.rank not in (1, None) or not shape.is_compatible_with(first):
            came = ", ".join(f"{name} {_listed(s)}" for name, s in shapes.items())
            raise ValueError(f"these must be vectors of one length: {came}.")


def _listed(shape: tf.TensorShape) -> str:
    return "of unknown shape" if shape.rank is None else str(shape.as_list())
