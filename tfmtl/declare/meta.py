"""The settings of two-stage meta-training (Luo et al., MAN, §4.3)."""

import dataclasses
from collections.abc import Sequence

from tfmtl.declare.layout import has_ids, is_list
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import freeze

SAMPLERS = ("random", "objective", "group:<feature>")
INNER_PARAMS = ("no_embedding", "all")
SCOPES = ("attention", "towers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """Meta-training, then a second stage on what stands above the experts (Algorithm 1).

    The paper leaves open what a task is, how many there are a step and which rate they adapt at;
    what it does not say is our choice, after MAML (Finn et al., ICML 2017). The outer update is
    the experiment's `Training`: its optimizers, rates and patience; `batch_size` is the rows of
    one task where `task_rows` is not given.

    Args:
        tasks: What a task is drawn from. `random`: a random batch. `group:advertiser_id`: rows
            with one value of a feature, so that what is learnt is to adapt to a new value.
            `objective`: a random batch of which the loss of one objective counts, in turns.
            Whatever it is, its rows are halved: one adapts, the other judges.
        tasks_per_step: Tasks whose gradients one update averages.
        task_rows: Most rows of a task; `Training.batch_size` if not given.
        hide: Features whose ids are unknown in every task, as those of a newcomer are: with
            `("advertiser_id", "ad_id")` nothing can be learnt of an advertiser by heart, only
            how to adapt to one. The second stage reads all features.
        min_rows: Groups with fewer than twice as many rows are put together into one.
        inner_rate: Step size `α` of the adaptation.
        inner_steps: Steps of gradient descent that a task adapts by; one in the paper.
        inner_params: What adapts: `no_embedding`, all but the embedding layer, or `all`, where
            the rows of the tables that the task looks up adapt too.
        second_order: Whether the update goes through the adaptation's own gradient, as the paper
            prints it. Without, it is the gradient at the adapted weights (first-order MAML),
            at about half the cost.
        finetune_scope: What the second stage trains: `attention` (between tasks, where the
            backbone has any), `towers`.
        finetune_epochs: Most epochs of the second stage; 0 leaves it out.
        finetune_rate: Its learning rate.
        finetune_patience: Its epochs without a better validation value before it stops.

    Raises:
        SpecError: A setting is unknown or out of range.
    """

    tasks: str = "random"
    tasks_per_step: int = 4
    task_rows: int | None = None
    hide: Sequence[str] = ()
    min_rows: int = 8
    inner_rate: float = 2e-4
    inner_steps: int = 1
    inner_params: str = "no_embedding"
    second_order: bool = True
    finetune_scope: Sequence[str] = SCOPES
    finetune_epochs: int = 10
    finetune_rate: float = 1e-4
    finetune_patience: int = 2

    def __post_init__(self) -> None:
        for field in ("finetune_scope", "hide"):
            value = getattr(self, field)
            if isinstance(value, str):
                raise SpecError(f"meta: {field}={value!r} must be several names: ({value!r},).")
        freeze(self)
        if self.tasks not in SAMPLERS[:2] and not self.group:
            raise SpecError(
                f"meta: tasks={self.tasks!r} is none of {list(SAMPLERS)}."
                f"{did_you_mean(self.tasks, SAMPLERS)}"
            )
        if self.inner_params not in INNER_PARAMS:
            raise SpecError(
                f"meta: inner_params={self.inner_params!r} is none of {list(INNER_PARAMS)}."
                f"{did_you_mean(self.inner_params, INNER_PARAMS)}"
            )
        for name in self.finetune_scope:
            if name not in SCOPES:
                raise SpecError(
                    f"meta: finetune_scope names {name!r}; it may name {list(SCOPES)}."
                    f"{did_you_mean(name, SCOPES)}"
                )
        if not self.finetune_scope and self.finetune_epochs:
            raise SpecError(
                "meta: finetune_scope=() leaves the second stage nothing to train; give "
                "finetune_epochs=0 to leave it out."
            )
        least = {"tasks_per_step": 1, "min_rows": 1, "inner_steps": 1, "finetune_epochs": 0}
        for field, low in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or value < low:
                raise SpecError(f"meta: {field}={value!r} must be a whole number from {low}.")
        if self.task_rows is not None and self.task_rows < 2:
            raise SpecError(
                f"meta: task_rows={self.task_rows} must be at least 2, a row for each half."
            )
        for field, zero in (("inner_rate", True), ("finetune_rate", False)):
            value = getattr(self, field)
            if not (0 <= value < float("inf")) or (value == 0 and not zero):
                raise SpecError(
                    f"meta: {field}={value} must be {'at least' if zero else 'above'} 0."
                )

    @property
    def group(self) -> str | None:
        """The feature whose values are tasks; `None` for another sampler."""
        kind, _, name = self.tasks.partition(":")
        return name if kind == "group" and name else None

    def check_problem(self, problem: ProblemSpec) -> None:
        """Refuses a group that is no feature with one id a row, and what cannot be hidden.

        Raises:
            SpecError: The message lists the features that are.
        """
        known = [f.name for f in problem.features if has_ids(f)]
        for name in self.hide:
            if name not in known:
                raise SpecError(
                    f"meta: hide names {name!r}, which is no feature with ids; those are {known}."
                    f"{did_you_mean(name, known)}"
                )
        if self.group is None:
            return
        single = [f.name for f in problem.features if has_ids(f) and not is_list(f)]
        if self.group not in single:
            raise SpecError(
                f"meta: tasks={self.tasks!r} names {self.group!r}, which is no feature with one id "
                f"a row; those are {single}.{did_you_mean(self.group, single)}"
            )
