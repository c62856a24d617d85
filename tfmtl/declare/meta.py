"""The settings of two-stage meta-training (Luo et al., MAN, §4.3)."""

import dataclasses
from collections.abc import Sequence

from tfmtl.declare.checks import above, at_least, check_settings, filled, one_of
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

    The paper leaves open what a task is, how many there are per step and at which rate they adapt;
    what it does not print is our choice, after MAML (Finn et al., ICML 2017). The outer update is
    the experiment's `Training`: its optimizers, rates and patience; `batch_size` is the rows of
    one task where `task_rows` is not given.

    Args:
        tasks: What a task of meta-training is. `random`: a random batch. `group:advertiser_id`:
            rows with one value of a feature, so that the model learns to adapt to a new value.
            `objective`: a random batch of which only the loss of one objective counts, each
            objective in turn. The rows of every task are halved: the model adapts on one half and
            is judged on the other.
        tasks_per_step: Tasks whose gradients one update averages.
        task_rows: Most rows of a task; `Training.batch_size` if not given.
        hide: Features whose ids are replaced by the unknown id in every task, as a newcomer's are:
            with `("advertiser_id", "ad_id")` the model cannot memorise an advertiser, only learn
            to adapt to one. The row's own value of a hidden feature is unknown among the events of
            its sequences too; the name of a sequence hides all its events. The second stage reads
            all features.
        min_rows: Groups with fewer than twice as many rows are put together into one.
        inner_rate: Step size `α` of the adaptation.
        inner_steps: Steps of gradient descent per task; one in the paper.
        inner_params: What adapts: `no_embedding`, all but the embedding layer, or `all`, where
            the table rows that the task looks up adapt too.
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
        freeze(self)
        check_settings(
            "meta.",
            self,
            {
                "tasks": filled(),
                "tasks_per_step": at_least(1),
                "task_rows": at_least(2),
                "min_rows": at_least(1),
                "inner_rate": at_least(0),
                "inner_steps": at_least(1),
                "inner_params": one_of(INNER_PARAMS),
                "finetune_scope": one_of(SCOPES),
                "finetune_epochs": at_least(0),
                "finetune_rate": above(0),
                "finetune_patience": at_least(0),
            },
        )
        if self.tasks not in SAMPLERS[:2] and not self.group:
            raise SpecError(
                f"meta.tasks={self.tasks!r} is none of {list(SAMPLERS)}."
                f"{did_you_mean(self.tasks, SAMPLERS)}"
            )
        if not self.finetune_scope and self.finetune_epochs:
            raise SpecError(
                "meta.finetune_scope=() leaves the second stage nothing to train; give "
                "finetune_epochs=0 to leave it out."
            )

    @property
    def group(self) -> str | None:
        """The feature whose values are tasks; `None` for another sampler."""
        kind, _, name = self.tasks.partition(":")
        return name if kind == "group" and name else None

    def check_problem(self, problem: ProblemSpec) -> None:
        """Refuses a group that is no feature with one id per row, and what cannot be hidden.

        Raises:
            SpecError: The message lists the features that are.
        """
        known = [f.name for f in problem.features if has_ids(f)]
        known += [f.name for f in problem.sequences]
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
                f"per row; those are {single}.{did_you_mean(self.group, single)}"
            )
