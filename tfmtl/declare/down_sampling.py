"""What down-sampled training rows mean for the losses of the tasks.

Where negatives of a label are kept at rate `r₀` and positives at `r₁`, the odds among kept rows are
`r₁ / r₀` times the true ones: `logit p_true = logit p_kept + log(r₀ / r₁)` (He et al., ADKDD 2014,
as odds). The correction is in the training loss alone. The logits of the heads are of the true
scale, so validation, calibrators, blessing and serving need no constant that could be forgotten.
"""

import dataclasses
import math
from collections.abc import Mapping

from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.split import Sampling
from tfmtl.declare.tasks import Task
from tfmtl.errors import SpecError


@dataclasses.dataclass(frozen=True)
class DownSampling:
    """The correction of a sampling by a label.

    Args:
        task: The task whose label decides which rows are kept.
        positive_rate: Share of its positives that is kept.
        negative_rate: Share of its negatives that is kept.
        offsets: `log(r₁ / r₀)` by task, added to the logit in the loss.
        weighted: Tasks whose rows count `1 / rate` in the loss.
    """

    task: str
    positive_rate: float
    negative_rate: float
    offsets: Mapping[str, float]
    weighted: frozenset[str]


def down_sampling_of(sampling: Sampling | None, problem: ProblemSpec) -> DownSampling | None:
    """The correction that a sampling declares; `None` where it declares none.

    With `correct="offset"` the logit of a task of that very label, on all rows, gets the offset.
    Other tasks on all rows, such as a conversion per impression, get weights: how likely one of
    their rows was kept depends on its features, so no constant would be right. A task on the
    positives of the label, such as the conversion after a click, needs neither: its rows were all
    kept at one rate. With `correct="weight"` all tasks but those have weights.

    Raises:
        SpecError: The sampled column is not the label of a binary task on all rows, or a rate is 0.
    """
    if sampling is None or sampling.correct == "none":
        return None
    column = sampling.column
    of_label = [task for task in problem.tasks if _decides(task, column)]
    if not of_label:
        raise SpecError(
            f"sampling.correct={sampling.correct!r}: column {column!r} is not the label, of 0 and "
            "1, of a binary task on all rows. Sample by such a label, or leave correct='none'."
        )
    unknown = sorted(set(sampling.rates) - {"0", "1"})
    if unknown:
        raise SpecError(
            f"sampling.rates: {unknown} with correct={sampling.correct!r}; the label {column!r} "
            "has the values '0' and '1'."
        )
    positive, negative = (sampling.rates.get(value, 1.0) for value in ("1", "0"))
    if not positive or not negative:
        raise SpecError(
            f"sampling.rates={dict(sampling.rates)}: where none of a class is kept, nothing can be "
            "corrected; a rate above 0 would be right."
        )
    offset = math.log(positive / negative)
    by_offset = of_label if sampling.correct == "offset" else []
    on_positives = [task for task in problem.tasks if task.observed_if == column]
    apart = {task.name for task in [*by_offset, *on_positives]}
    return DownSampling(
        task=of_label[0].name,
        positive_rate=float(positive),
        negative_rate=float(negative),
        offsets={task.name: offset for task in by_offset},
        weighted=frozenset(task.name for task in problem.tasks if task.name not in apart),
    )


def _decides(task: Task, column: str) -> bool:
    plain = task.positive is None and not task.soft and task.pseudo_label is None
    everywhere = task.observed_if is None and task.labelled_if is None
    return task.kind == "binary" and task.label == column and plain and everywhere
