"""Loss terms over a whole batch: `term(predictions, labels, weights, training)` gives a scalar.

A term is made from the names of the served binary tasks with a head of their own that are
observed on every row, and from the problem. It is called with the `predictions` of all the
problem's tasks, `{task: [batch]}`, and with `labels` and `weights`, `[batch, tasks]`, whose columns
are the tasks of `predictions` in its order; a weight of 0 says not observed. One with variables is
a Keras layer, so that checkpoints hold them; exports never do.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.registry import register


@register("term", "order_calibration")
class OrderCalibration:
    """Punishes a later step that is held likelier than the step it needs (Xi et al., KDD 2021).

    `weight · Σ mean(max(p_later − p_earlier, 0))` over the pairs, each mean over the rows on
    which both tasks are observed. Zero just where no such row breaks the order. It is
    the behavioural expectation calibrator of AITM.

    Args:
        tasks: Binary tasks observed on every row, in the order of their steps. A task on other
            rows, such as conversion given a click, is a probability of another kind and has no
            place in an order.
        problem: Not needed here.
        weight: Weight of the term.
        pairs: `(earlier, later)` pairs of `tasks`; consecutive tasks by default. With fewer
            than two tasks there is no pair, and the term is 0.

    Raises:
        SpecError: A pair names something else than two of `tasks`, or `weight` is negative.

    Example:
        >>> term = OrderCalibration(["ctr", "ctcvr"], weight=1.0)
        >>> p = {"ctr": tf.constant([0.5, 0.1]), "ctcvr": tf.constant([0.1, 0.5])}
        >>> float(term(p, tf.zeros([2, 2]), tf.ones([2, 2])))
        0.2
    """

    def __init__(
        self,
        tasks: Sequence[str],
        problem: ProblemSpec | None = None,
        *,
        weight: float = 0.6,
        pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        del problem
        if weight < 0:
            raise SpecError(f"order_calibration: weight is not below 0; got {weight}.")
        self.tasks, self.weight = tuple(tasks), weight
        if pairs is None:
            self.pairs = tuple(zip(self.tasks[:-1], self.tasks[1:], strict=True))
        else:
            self.pairs = tuple(_checked(pair, self.tasks) for pair in pairs)

    def __call__(
        self,
        predictions: Mapping[str, tf.Tensor],
        labels: tf.Tensor,
        weights: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """The weighted excess of one batch, a scalar."""
        del labels, training
        observed = dict(zip(predictions, tf.unstack(weights > 0, axis=1), strict=True))
        total = tf.zeros([], weights.dtype)
        for earlier, later in self.pairs:
            both = tf.cast(observed[earlier] & observed[later], weights.dtype)
            excess = tf.nn.relu(predictions[later] - predictions[earlier])
            total += tf.reduce_sum(both * excess) / tf.maximum(tf.reduce_sum(both), 1.0)
        return self.weight * total


def _checked(pair: Sequence[str], tasks: Sequence[str]) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
        raise SpecError(
            "order_calibration: pairs are (earlier, later) names, as (('ctr', 'ctcvr'),); got "
            f"{pair!r}."
        )
    for name in pair:
        if name not in tasks:
            raise SpecError(
                f"order_calibration: {name!r} is no binary task with a head of its own that is "
                f"observed on every row; those are {list(tasks)}.{did_you_mean(name, tasks)}"
            )
    return pair[0], pair[1]
