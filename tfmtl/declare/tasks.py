"""Tasks: what is predicted, from which label, on which rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import at_least, check_setting, check_settings, filled, one_of
from tfmtl.declare.features import Column
from tfmtl.declare.names import check_task_name
from tfmtl.declare.task_parts import DEFAULT_LOSSES, Loss, loss_config, metric_references
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import freeze

__all__ = ["BALANCED_SQRT", "DEFAULT_LOSSES", "Loss", "Task", "binary", "regression"]

BALANCED_SQRT = "balanced_sqrt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction. Made by `binary` or `regression`, which document the fields.

    `loss` is the configuration of a part of kind "loss", `{"name": "focal", "gamma": 1.0}`.
    """

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
    loss: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positive_weight: float | str = 1.0
    negative_weight: float = 1.0
    metrics: Sequence[Any] = ()

    def __post_init__(self) -> None:
        check_task_name(self.name)
        owner = f"task {self.name!r}: "
        check_setting(f"{owner}kind", self.kind, str, one_of(tuple(DEFAULT_LOSSES)))
        loss = self.loss or {"name": DEFAULT_LOSSES[self.kind]}
        object.__setattr__(self, "loss", loss_config(self.name, self.kind, loss))
        object.__setattr__(self, "metrics", metric_references(self.name, self.kind, self.metrics))
        freeze(self)
        columns = ("label", "observed_if", "weight", "labelled_if", "pseudo_label", "head")
        check_settings(
            owner,
            self,
            {"pseudo_weight": at_least(0), **dict.fromkeys(columns, filled())},
        )
        _check_label(self)
        _check_head(self)
        _check_class_weights(self)

    def columns(self) -> tuple[Column, ...]:
        """Raw columns the task reads; its sample space's label is read by that label's task."""
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
    loss: Loss = DEFAULT_LOSSES["binary"],
    metrics: Sequence[Any] = (),
) -> Task:
    """Declares a probability.

    Class weights and focal loss move calibration: a model that is right about the weighted
    rows, or about the hard ones, predicts another rate than the data's. With class weights the
    odds are `positive_weight / negative_weight` times too high. Ranking metrics do not change;
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
            the task's space whose label is missing, as an ad that was not shown has no click
            (Wang et al., AdKDD 2023, §3.2.2). Metrics are on true labels alone.
        pseudo_weight: Weight of such a row, where a row with a true label has 1.
        head: Task whose logit this label teaches too, instead of a head of its own.
        trained: Whether the label has a loss. Without one it only accompanies `head`: loss terms
            over a whole batch may read it, as `pwiser` reads the conversions in a model of
            clicks alone, and its AUC measures how that head's probabilities rank it.
        served: Whether the task is an output of the served model, and so is measured and blessed.
            A teacher is not: its head is not exported.
        positive_weight: What the loss of a positive row is multiplied by, above 0, or
            `"balanced_sqrt"`: `√(negatives / positives)` of the training rows on which the task is
            observed (our choice of a value; Luo et al., 2022, section 3.3, weight the classes and
            print no weight). Unlike by `weight`, the mean is not divided by these weights: twice
            of both is twice the loss. A soft label `y` has `y` of this weight and `1 − y` of the
            other.
        negative_weight: Likewise of a negative row.
        loss: A registered loss by name; with its arguments, `{"name": "focal", "gamma": 1.0}`; or
            a class or function of your own. `cross_entropy`, `focal`, `poly1` or
            `label_smoothing`; see `tfmtl.losses`. Any but the default loads TensorFlow here, to
            check its arguments.
        metrics: Metrics beside the standard ones: registered names such as `"pr_auc"` and
            `"brier"`, or metrics of your own, made by `tfmtl.metric`. They stand in tables and
            slices, and bounds and `monitor` may name them (`ctr/brier@imp`).

    Raises:
        SpecError: The arguments contradict each other, or the loss is unknown.
    """
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
        loss=loss,  # type: ignore[arg-type]
        metrics=metrics,
    )


def regression(
    name: str,
    *,
    label: str,
    observed_if: str | None = None,
    weight: str | None = None,
    loss: Loss = DEFAULT_LOSSES["regression"],
    served: bool = True,
    metrics: Sequence[Any] = (),
) -> Task:
    """Declares a real number, such as a quality score.

    The loss is taken in units of the training labels' standard deviation (our choice, so that
    a task's weight does not depend on the label's unit); predictions are in the label's unit.

    Args:
        name: As in `binary`.
        label: Column with numbers.
        observed_if: As in `binary`.
        weight: As in `binary`.
        loss: As in `binary`: `squared`, or robust against outliers, `huber`, `pseudo_huber` or
            `log_cosh`, as `{"name": "huber", "delta": 0.5}` with the residual at which outliers
            begin, in standard deviations. Near zero the robust ones are half the square: to
            compare, double the task's weight.
        served: As in `binary`.
        metrics: As in `binary`.

    Raises:
        SpecError: The loss is unknown, or an argument of it.
    """
    return Task(
        name=name,
        kind="regression",
        label=label,
        observed_if=observed_if,
        weight=weight,
        loss=loss,  # type: ignore[arg-type]
        served=served,
        metrics=metrics,
    )


def _check_label(task: Task) -> None:
    if task.soft and task.positive is not None:
        raise SpecError(
            f"task {task.name!r}: a soft label is a number, so positive= has no meaning."
        )


def _check_head(task: Task) -> None:
    if task.head is not None and task.served:
        raise SpecError(
            f"task {task.name!r}: with head={task.head!r} it has no prediction of its own to "
            "serve; give served=False."
        )
    if task.head is None and not task.trained:
        raise SpecError(
            f"task {task.name!r}: trained=False without head= would leave a head of its own at "
            "its initial weights; name the task whose prediction its label is compared with, as "
            "head='ctr'."
        )
    weighted = not task.positive_weight == task.negative_weight == 1
    if not task.trained and (weighted or task.loss != {"name": DEFAULT_LOSSES[task.kind]}):
        raise SpecError(
            f"task {task.name!r}: with trained=False it has no loss for positive_weight=, "
            "negative_weight= or loss= to change; leave them out."
        )


def _check_class_weights(task: Task) -> None:
    positive, negative = task.positive_weight, task.negative_weight
    if isinstance(positive, str) and positive != BALANCED_SQRT:
        raise SpecError(
            f"task {task.name!r}: positive_weight={positive!r} is neither a number nor "
            f"{BALANCED_SQRT!r}.{did_you_mean(positive, [BALANCED_SQRT])}"
        )
    for field, weight in (("positive_weight", positive), ("negative_weight", negative)):
        if weight != BALANCED_SQRT and not float(weight) > 0:
            raise SpecError(
                f"task {task.name!r}: {field}={weight} must be above 0; rows that are not to count "
                "are those on which the task is not observed, as observed_if= or labelled_if= say."
            )
