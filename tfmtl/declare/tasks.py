"""Tasks: what is predicted, from which label, on which rows."""

import dataclasses

from tfmtl.declare.features import Column
from tfmtl.errors import SpecError, did_you_mean

LOSSES = ("squared", "huber", "pseudo_huber", "log_cosh")
BINARY_LOSSES = ("cross_entropy", "focal")
BALANCED_SQRT = "balanced_sqrt"


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
    positive_weight: float | str = 1.0
    negative_weight: float = 1.0
    gamma: float = 2.0
    alpha: float | None = None

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
    positive_weight: float | str = 1.0,
    negative_weight: float = 1.0,
    loss: str = "cross_entropy",
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Task:
    """Declares a probability.

    Class weights and focal loss move calibration: a model that is right about the weighted
    rows, or about the hard ones, predicts another rate than the data's. With class weights the
    odds are `positive_weight / negative_weight` times too high. Ranking metrics do not mind;
    where predictions are used as probabilities, leave both alone or calibrate afterwards. The
    losses and metrics of validation have neither.

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
        positive_weight: What the loss of a positive row is multiplied by, above 0, or
            `"balanced_sqrt"`: `√(negatives / positives)` of the training rows on which the task is
            observed (our choice of a value; Luo et al., 2022, section 3.3, weight the classes and
            print none). Unlike those of `weight`, the mean is not taken over these weights: twice
            of both is twice the loss. A soft label `y` has `y` of this weight and `1 − y` of the
            other.
        negative_weight: Likewise of a negative row.
        loss: `cross_entropy`, or `focal` (Lin et al., ICCV 2017, eq. 5), which makes little of
            rows that are predicted well.
        gamma: How little, at least 0: a positive's loss is multiplied by `(1 − p)^gamma`, a
            negative's by `p^gamma`. For `focal` alone.
        alpha: What `focal` multiplies a positive's loss by, between 0 and 1, and `1 − alpha` a
            negative's; both are left alone without it.
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
    _check_class_weights(name, positive_weight, negative_weight)
    _check_focal(name, loss, gamma, alpha)
    plain = positive_weight == negative_weight == 1 and loss == "cross_entropy"
    if not trained and not plain:
        raise SpecError(
            f"task {name!r}: with trained=False it has no loss for positive_weight=, "
            "negative_weight= or loss= to change; leave them out."
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
        positive_weight=positive_weight,
        negative_weight=negative_weight,
        loss=loss,
        gamma=gamma,
        alpha=alpha,
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


def _check_class_weights(name: str, positive: float | str, negative: float) -> None:
    if isinstance(positive, str) and positive != BALANCED_SQRT:
        raise SpecError(
            f"task {name!r}: positive_weight={positive!r} is neither a number nor "
            f"{BALANCED_SQRT!r}.{did_you_mean(positive, [BALANCED_SQRT])}"
        )
    for field, weight in (("positive_weight", positive), ("negative_weight", negative)):
        if weight != BALANCED_SQRT and not 0 < float(weight) < float("inf"):
            raise SpecError(
                f"task {name!r}: {field}={weight} must be above 0; rows that are not to count are "
                "those on which the task is not observed, as observed_if= or labelled_if= say."
            )


def _check_focal(name: str, loss: str, gamma: float, alpha: float | None) -> None:
    if loss not in BINARY_LOSSES:
        raise SpecError(
            f"task {name!r}: loss={loss!r} is none of {list(BINARY_LOSSES)}."
            f"{did_you_mean(loss, BINARY_LOSSES)}"
        )
    if not 0 <= gamma < float("inf"):
        raise SpecError(f"task {name!r}: gamma={gamma} must be at least 0; Lin et al. take 2.")
    if alpha is not None and not 0 < alpha < 1:
        raise SpecError(
            f"task {name!r}: alpha={alpha} must be between 0 and 1, as alpha=0.25; a negative's "
            "loss is multiplied by 1 - alpha."
        )
    if alpha is not None and loss != "focal":
        raise SpecError(
            f"task {name!r}: alpha={alpha} is of loss='focal', and loss={loss!r}; class weights "
            "are positive_weight= and negative_weight=."
        )
