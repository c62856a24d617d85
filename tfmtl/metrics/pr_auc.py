"""The area under the precision-recall curve, as average precision."""

import numpy as np
from numpy.typing import ArrayLike

from tfmtl.metrics.auc import count_ties, warn_one_class
from tfmtl.metrics.checks import checked
from tfmtl.metrics.metric import metric
from tfmtl.registry import register


# TensorFlow Model Analysis interpolates between thresholds: another number, and so another bound.
@register("metric", "pr_auc")
@metric(best="high", kinds=("binary",), heading="PR AUC")
def pr_auc(
    labels: ArrayLike,
    scores: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    name: str = "pr_auc",
) -> float:
    """Average precision, `Σ (Rₖ − Rₖ₋₁) Pₖ` over the distinct scores from the highest down.

    `Pₖ` and `Rₖ` are precision and recall of all rows with the `k` highest scores. Rows of one
    score enter together, so that their order does not matter. Nothing is interpolated: a line
    between two points of the curve promises what no threshold reaches (Davis and Goadrich,
    ICML 2006). This is `sklearn.metrics.average_precision_score`.

    Where positives are rare it looks at the top of the ranking alone. A random ranking has the
    rate of positives, so compare models on the same rows alone.

    Args:
        labels: `[n]`, each in `[0, 1]`; a soft label `y` is a positive of weight `y` and a
            negative of weight `1 - y`, as in `auc`.
        scores: `[n]`, probabilities, logits or anything of the same order; not NaN.
        weights: `[n]`, not negative; a row of weight `w` counts as `w` rows.
        name: What the warning calls the metric.

    Returns:
        A float in `[0, 1]`, or NaN with a warning where one class is missing.

    Example:
        >>> round(pr_auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]), 3)
        0.833
    """
    y, s, w = checked(labels, scores, weights)
    ties = count_ties(y, s, w)
    if not (ties.positives.sum() > 0 and ties.negatives.sum() > 0):
        warn_one_class(name, ties.positives.sum(), ties.negatives.sum())
        return float("nan")
    positives = ties.positives[::-1]
    passed = np.cumsum(positives)
    rows = passed + np.cumsum(ties.negatives[::-1])
    # Scores at the top whose rows all weigh nothing have no precision, and add no recall.
    precision = np.divide(passed, rows, out=np.zeros_like(rows), where=rows > 0)
    return float(np.dot(positives, precision) / passed[-1])
