"""PWiseR: converted impressions rank above the others (Durmus et al., eq. 2).

With `P` the converted impressions of a batch, `C` those with a click alone and `Z` those
without one, and `s` their scores:

    1/|C| Σ_{i∈C} Σ_{j∈P} [s_i − s_j + m1]₊²  +  1/|Z| Σ_{k∈Z} Σ_{j∈P} [s_k − s_j + m2]₊²

Both sums are one over the rivals `i ∈ C ∪ Z`, each raised by its group's margin. No tensor here
holds every pair. `sorted` needs `O(B log B)` steps: the rivals that count for a positive are a
suffix of the sorted ones, of which three sums are enough. `chunked` computes the pairs in blocks.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmtl.losses.per_example import hide

GATES = ("hinge", "literal")
NORMALIZATIONS = ("paper", "pairs")
METHODS = ("sorted", "chunked")
LARGEST_BLOCK = 4_000_000
"""Most pairs that `chunked` looks at together, of 8 bytes each."""


class Groups(NamedTuple):
    """Weights `[batch]`, float64, of the rows of each group; 0 on all others."""

    converted: tf.Tensor
    click_only: tf.Tensor
    no_click: tf.Tensor


def groups(click: tf.Tensor, conversion: tf.Tensor, weights: tf.Tensor | None = None) -> Groups:
    """Splits impressions into the three kinds, by weights.

    A conversion needs a click (the paper's Table 1 has no fourth row). A row whose labels say
    otherwise is in no group, because one of them is wrong (our choice).

    Args:
        click: `[batch]`, 0 or 1.
        conversion: `[batch]`, 0 or 1.
        weights: `[batch]`, not negative; a row of weight 0 is left out. All 1 by default.
    """
    clicked, bought = tf.cast(click, tf.float64) > 0.5, tf.cast(conversion, tf.float64) > 0.5
    weights = tf.ones_like(click) if weights is None else weights
    weights = tf.cast(weights, tf.float64)
    return Groups(
        hide(weights, clicked & bought),
        hide(weights, clicked & ~bought),
        hide(weights, ~(clicked | bought)),
    )


def pwiser(
    scores: tf.Tensor,
    click: tf.Tensor,
    conversion: tf.Tensor,
    weights: tf.Tensor | None = None,
    *,
    gate: str = "hinge",
    normalize: str = "paper",
    margin_click: float = 0.3,
    margin_no_click: float = 0.3,
    method: str = "sorted",
    queue: tf.Tensor | None = None,
    queue_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """The pairwise ranking loss of one batch, a scalar ≥ 0 of the scores' type.

    Gradients flow to both sides of a pair. Without a converted row, or without any other, it
    is exactly 0, and so are its gradients. Sums are taken in float64.

    Args:
        scores: Probabilities `[batch]`; margins have no meaning for logits.
        click: `[batch]`, 0 or 1.
        conversion: `[batch]`, 0 or 1; see `groups` for one without a click.
        weights: `[batch]`, not negative: a row of weight 2 counts as that row twice, and one of
            weight 0 is left out, whatever its score. All 1 by default.
        gate: `hinge` counts pairs with `s_j < s_i + m`, which is continuous. `literal` is what
            is printed, `s_j < s_i − m`: it ignores wrongly ordered pairs closer than the margin,
            and jumps by `(2m)²` where their distance reaches it, which click-through rates far
            below the margin never do.
        normalize: `paper`, by the number of `C` and of `Z` alone, grows with the number of
            conversions and so with the batch; `pairs` divides by that number too.
        margin_click: `m1`, by which conversions should lead clicks.
        margin_no_click: `m2`, by which conversions should lead the rest.
        method: `sorted` or `chunked`; they differ by rounding. `sorted` can be differentiated
            twice, `chunked` once.
        queue: Scores `[q]` that count as further converted rows, without a gradient.
        queue_weights: Their weights `[q]`, all 1 by default; 0 for an empty place.

    Raises:
        ValueError: An option is unknown, a margin is negative, or the shapes differ.
    """
    check_options(gate, normalize, method, margin_click, margin_no_click)
    of = groups(click, conversion, weights)
    used = of.converted + of.click_only + of.no_click > 0
    s = tf.cast(hide(scores, used), tf.float64)
    m1, m2 = (tf.constant(margin, s.dtype) for margin in (margin_click, margin_no_click))
    margin = tf.where(of.click_only > 0, m1, m2)
    share = tf.math.divide_no_nan(of.click_only, tf.reduce_sum(of.click_only))
    share += tf.math.divide_no_nan(of.no_click, tf.reduce_sum(of.no_click))
    rivals = _Rivals(s + margin, s + margin if gate == "hinge" else s - margin, share)
    positives, counts = s, of.converted
    if queue is not None:
        earlier = tf.ones_like(queue) if queue_weights is None else queue_weights
        former = hide(tf.stop_gradient(queue), earlier > 0)
        positives = tf.concat([s, tf.cast(former, s.dtype)], axis=0)
        counts = tf.concat([counts, tf.cast(earlier, s.dtype)], axis=0)
    if normalize == "pairs":
        counts = tf.math.divide_no_nan(counts, tf.reduce_sum(counts))
    total = {"sorted": _sorted, "chunked": _chunked}[method](rivals, positives, counts)
    return tf.cast(total, scores.dtype)


def check_options(
    gate: str, normalize: str, method: str, margin_click: float, margin_no_click: float
) -> None:
    """Refuses options that `pwiser` does not have.

    Raises:
        ValueError: One is unknown, or a margin is negative.
    """
    for name, value, known in (
        ("gate", gate, GATES),
        ("normalize", normalize, NORMALIZATIONS),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise ValueError(f"pwiser: {name}={value!r} is none of {list(known)}.")
    for name, margin in (("margin_click", margin_click), ("margin_no_click", margin_no_click)):
        if not 0 <= margin < float("inf"):
            raise ValueError(f"pwiser: {name}={margin} must be at least 0.")


class _Rivals(NamedTuple):
    """Rows that should stand below the conversions, each `[batch]`, float64."""

    raised: tf.Tensor  # The score and its margin.
    gate: tf.Tensor  # A pair counts where this is above the conversion's score.
    share: tf.Tensor  # The row's weight in its group's mean, 0 for a row of neither group.


def _sorted(rivals: _Rivals, positives: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """`Σ_j counts_j Σ_i share_i (raised_i − positives_j)²` over the pairs that count."""
    order = tf.argsort(rivals.gate)
    gate, raised, share = (tf.gather(x, order) for x in (rivals.gate, rivals.raised, rivals.share))
    moments = tf.stack([share, share * raised, share * tf.square(raised)], axis=1)
    of_suffix = tf.pad(tf.cumsum(moments, reverse=True), [[0, 1], [0, 0]])
    first = tf.searchsorted(gate, positives, side="right")
    zeroth, one, two = tf.unstack(tf.gather(of_suffix, first), axis=1)
    each = two - 2.0 * positives * one + tf.square(positives) * zeroth
    # Rounding may take a sum of tiny squares below 0; plain clipping would lose its gradient.
    each += tf.stop_gradient(tf.nn.relu(each) - each)
    return tf.reduce_sum(counts * each)


def _chunked(rivals: _Rivals, positives: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """As `_sorted`, by looking at the pairs themselves, `LARGEST_BLOCK` of them at a time."""
    raised, gate, share = (tf.boolean_mask(x, rivals.share > 0) for x in rivals)
    positives, counts = (tf.boolean_mask(x, counts > 0) for x in (positives, counts))
    return _over_blocks(raised, positives, gate, share, counts)


def _over_blocks(
    raised: tf.Tensor,
    positives: tf.Tensor,
    gate: tf.Tensor,
    share: tf.Tensor,
    counts: tf.Tensor,
) -> tf.Tensor:
    # The gradient is summed in the loop: TensorFlow's gradient of a loop would keep all blocks. It
    # is attached as the slope of a term that is 0, because every trace of a `tf.custom_gradient`
    # stays in memory until the process ends.
    inputs = raised, positives
    raised, positives, gate, share, counts = (
        tf.stop_gradient(x) for x in (raised, positives, gate, share, counts)
    )
    rows = tf.maximum(LARGEST_BLOCK // tf.maximum(tf.size(raised), 1), 1)
    blocks = tf.TensorArray(
        raised.dtype, size=0, dynamic_size=True, infer_shape=False, element_shape=[None]
    )

    def add(
        start: tf.Tensor, total: tf.Tensor, to_raised: tf.Tensor, to_positives: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.TensorArray]:
        j = slice(start, start + rows)
        p, n = positives[j, tf.newaxis], counts[j]
        excess = tf.where(gate > p, raised - p, tf.zeros([], raised.dtype))
        row_sums = tf.linalg.matvec(tf.square(excess), share)
        return (
            start + rows,
            total + tf.reduce_sum(n * row_sums),
            to_raised + 2.0 * share * tf.linalg.matvec(excess, n, transpose_a=True),
            to_positives.write(to_positives.size(), -2.0 * n * tf.linalg.matvec(excess, share)),
        )

    start = (tf.constant(0), tf.zeros([], raised.dtype), tf.zeros_like(raised), blocks)
    _, total, to_raised, blocks = tf.while_loop(
        lambda at, *_: at < tf.size(positives), add, start, parallel_iterations=1
    )
    to_positives = tf.reshape(
        tf.cond(blocks.size() > 0, blocks.concat, lambda: tf.zeros_like(positives)),
        tf.shape(positives),
    )

    for x, slope in zip(inputs, (to_raised, to_positives), strict=True):
        total += tf.reduce_sum(slope * (x - tf.stop_gradient(x)))
    return total
