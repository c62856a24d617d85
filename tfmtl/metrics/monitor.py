"""Which way a monitored metric is better."""

from tfmtl.declare.monitors import check_directed
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError
from tfmtl.metrics.metric import metric_of


def lower_is_better(monitor: str, problem: ProblemSpec | None = None) -> bool:
    """Whether of two values of a monitored metric the lower one is better.

    Args:
        monitor: Full or bare name.
        problem: Knows the metrics of your own that are not registered.

    Raises:
        SpecError: No metric has that name, or it is best at a value, neither high nor low.
    """
    try:
        metric = metric_of(monitor, problem)
    except SpecError as error:
        bare = monitor.partition("@")[0]
        hint = ""
        if "/" not in monitor:
            hint = (
                f" Declare which way one of your own is better: tfmtl.register('metric', {bare!r})"
                f"(tfmtl.Metric(name={bare!r}, best='high'))."
            )
        raise SpecError(f"training.monitor={monitor!r}: {error}{hint}") from None
    check_directed(monitor, metric)
    return metric.lower_is_better
