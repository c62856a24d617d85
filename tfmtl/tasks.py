"""Tasks: what is predicted, from which label, on which rows."""

import dataclasses

from tfmtl.errors import SpecError
from tfmtl.features.declare import Column


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction. Made by `binary` or `regression`, which document the fields."""

    name: str
    kind: str
    label: str
    observed_if: str | None = None
    weight: str | None = None
    positive: str | None = None
    soft: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpecError(
                f"task {self.name!r}: a name becomes a metric's and a signature's name, so it "
                "needs to be letters, digits and underscores."
            )

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the task reads. A space's own label is read by the task that owns it."""
        label = Column(name=self.label, dtype="string" if self.positive is not None else "float32")
        if self.weight is None:
            return (label,)
        return (label, Column(name=self.weight, dtype="float32"))


def binary(
    name: str,
    *,
    label: str,
    observed_if: str | None = None,
    weight: str | None = None,
    positive: str | None = None,
    soft: bool = False,
) -> Task:
    """Declares a probability.

    Args:
        name: Name of the task in outputs and metrics.
        label: Column with 0 and 1, or with text where `positive` is given.
        observed_if: Label that must be positive for the row to count: a post-click conversion
            rate is `observed_if="click"`. Without it every row counts.
        weight: Column with example weights, ≥ 0, for the loss; metrics are unweighted.
        positive: Value of a text label that means 1; every other value means 0.
        soft: Allows labels between 0 and 1, such as a teacher's probabilities.
    """
    if soft and positive is not None:
        raise SpecError(f"task {name!r}: a soft label is a number, so positive= has no meaning.")
    return Task(
        name=name,
        kind="binary",
        label=label,
        observed_if=observed_if,
        weight=weight,
        positive=positive,
        soft=soft,
    )


def regression(
    name: str, *, label: str, observed_if: str | None = None, weight: str | None = None
) -> Task:
    """Declares a real number, such as a quality score. Arguments as in `binary`.

    The loss is taken in units of the training labels' standard deviation (our choice, so that
    a task's weight does not depend on the label's unit); predictions are in the label's unit.
    """
    return Task(name=name, kind="regression", label=label, observed_if=observed_if, weight=weight)
