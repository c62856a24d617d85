"""Tasks: what is predicted, from which label, on which rows."""

import dataclasses

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.features.declare import Column

LOSSES = ("squared", "huber", "pseudo_huber", "log_cosh")


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
    labelled_if: str | None = None
    pseudo_label: str | None = None
    pseudo_weight: float = 1.0
    head: str | None = None
    trained: bool = True
    served: bool = True
    loss: str = "squared"
    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpecError(
                f"task {self.name!r}: a name becomes a metric's and a signature's name, so it "
                "needs to be letters, digits and underscores."
            )

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the task reads. A space's own label is read by the task that owns it."""
        label = Column(name=self.label, dtype="string" if self.positive is not None else "float32")
        others = (self.weight, self.pseudo_label)
        return (label, *(Column(name=n, dtype="float32") for n in others if n is not None))


def binary(
    name: str,
    *,
    label: str,
    observed_if: str | None = None,
    weight: str | None = None,
    positive: str | None = None,
    soft: bool = False,
    labelled_if: str | None = None,
    pseudo_label: str | None = None,
    pseudo_weight: float = 1.0,
    head: str | None = None,
    trained: bool = True,
    served: bool = True,
) -> Task:
    """Declares a probability.

    Args:
        name: Name of the task in outputs and metrics.
        label: Column with 0 and 1, or with text where `positive` is given. A missing label
            means that the task is not observed on the row.
        observed_if: Label or indicator that must be positive for the row to count: a post-click
            conversion rate is `observed_if="click"`. Without it every row counts.
        weight: Column with example weights, ≥ 0, for the loss; metrics are unweighted.
        positive: Value of a text label that means 1; every other value means 0.
        soft: Allows labels between 0 and 1, such as a teacher's probabilities.
        labelled_if: Indicator of the rows whose label counts; on any other it is as if it were
            missing, whatever the column holds. An ad that was not shown has no click, and a
            log that says 0 there must not make it a negative.
        pseudo_label: Column with another model's probability, which the loss takes on rows of
            the task's space whose own label is missing, as an ad that was not shown has no
            click (Wang et al., AdKDD 2023, §3.2.2). Metrics are on true labels alone.
        pseudo_weight: What such a row weighs beside one with a true label.
        head: Task whose logit this label teaches too, instead of a head of its own.
        trained: Whether the label has a loss. Without one it rides along with `head`: loss terms
            over a whole batch may read it, as `pwiser` reads the conversions in a model of
            clicks alone, and its AUC says how that head's probabilities rank it.
        served: Whether the task is among a served model's outputs, and so measured and
            blessed. A teacher is not: its head is left out of what is exported.
    """
    if soft and positive is not None:
        raise SpecError(f"task {name!r}: a soft label is a number, so positive= has no meaning.")
    if not 0 <= pseudo_weight < float("inf"):
        raise SpecError(f"task {name!r}: pseudo_weight={pseudo_weight} must be at least 0.")
    if head is not None and served:
        raise SpecError(
            f"task {name!r}: with head={head!r} it has no prediction of its own to serve; give "
            "served=False."
        )
    if head is None and not trained:
        raise SpecError(
            f"task {name!r}: trained=False without head= would leave a head of its own as it "
            "began; name the task whose prediction its label is held against, as head='ctr'."
        )
    return Task(
        name=name,
        kind="binary",
        label=label,
        observed_if=observed_if,
        weight=weight,
        positive=positive,
        soft=soft,
        labelled_if=labelled_if,
        pseudo_label=pseudo_label,
        pseudo_weight=pseudo_weight,
        head=head,
        trained=trained,
        served=served,
    )


def regression(
    name: str,
    *,
    label: str,
    observed_if: str | None = None,
    weight: str | None = None,
    loss: str = "squared",
    delta: float = 1.0,
    served: bool = True,
) -> Task:
    """Declares a real number, such as a quality score.

    The loss is taken in units of the training labels' standard deviation (our choice, so that
    a task's weight does not depend on the label's unit); predictions are in the label's unit.

    Args:
        name: As in `binary`.
        label: Column with numbers.
        observed_if: As in `binary`.
        weight: As in `binary`.
        loss: `squared`, or robust against outliers: `huber`, `pseudo_huber`, `log_cosh`. Near
            zero the robust ones are half the square: to compare, double the task's weight.
        delta: Residual at which outliers begin, in standard deviations; not for `squared`.
        served: As in `binary`.
    """
    if loss not in LOSSES:
        raise SpecError(
            f"task {name!r}: loss={loss!r} is none of {list(LOSSES)}.{did_you_mean(loss, LOSSES)}"
        )
    if not 0 < delta < float("inf"):
        raise SpecError(f"task {name!r}: delta={delta} must be above 0.")
    return Task(
        name=name,
        kind="regression",
        label=label,
        observed_if=observed_if,
        weight=weight,
        loss=loss,
        delta=delta,
        served=served,
    )
