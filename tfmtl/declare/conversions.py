"""What a conversion's head means, and which tasks then have a logit and a loss of their own."""

from collections.abc import Sequence

from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import Task
from tfmtl.errors import SpecError, did_you_mean

CONV_SEMANTICS = ("ctcvr_direct", "cvr_click", "esmm", "mtms", "mtms_literal")


def direct_tasks(problem: ProblemSpec, conv_semantics: str) -> tuple[str, ...]:
    """Tasks with a logit of their own, in order; the others are products or share a head."""
    funnel = problem.funnel()
    product = funnel[2] if funnel and conv_semantics != "ctcvr_direct" else None
    return tuple(t.name for t in problem.tasks if t.name != product and t.head is None)


def trained_tasks(problem: ProblemSpec, conv_semantics: str) -> tuple[str, ...]:
    """Tasks with a loss of their own, in order."""
    funnel = problem.funnel()
    without = {"cvr_click": 2, "esmm": 1}.get(conv_semantics)
    passive = funnel[without] if funnel and without is not None else None
    return tuple(t.name for t in problem.tasks if t.trained and t.name != passive)


def impression_tasks(problem: ProblemSpec, conv_semantics: str) -> tuple[str, ...]:
    """Served binary tasks with a logit of their own that are observed on every row."""
    tasks: list[Task] = [problem.task(t) for t in direct_tasks(problem, conv_semantics)]
    return tuple(t.name for t in tasks if t.kind == "binary" and t.observed_if is None and t.served)


def check_semantics(problem: ProblemSpec, conv_semantics: str) -> None:
    """Refuses a meaning the problem's tasks do not have."""
    if conv_semantics not in CONV_SEMANTICS:
        raise SpecError(
            f"conv_semantics={conv_semantics!r} is none of {list(CONV_SEMANTICS)}."
            f"{did_you_mean(conv_semantics, CONV_SEMANTICS)}"
        )
    if conv_semantics != "ctcvr_direct" and problem.funnel() is None:
        raise SpecError(
            f"conv_semantics={conv_semantics!r} multiplies two heads into a third, which needs "
            "three binary tasks: binary('ctr', label='click'), binary('cvr', label='conversion', "
            "observed_if='click') and binary('ctcvr', label='conversion'); tasks are "
            f"{list(problem.task_names)}."
        )


def follows(problem: ProblemSpec, earlier: str, later: str) -> bool:
    """Whether the declaration says that a task's event needs that of another, or is the same.

    It says so by `observed_if`, by a third task of the same label that is observed so, or by
    `drop_if`.

    Args:
        problem: The declaration.
        earlier: A task.
        later: A task, whose positives are to be positives of `earlier`.

    Example:
        >>> from tfmtl.declare.problem import binary, categorical
        >>> tasks = [binary(name, label=name) for name in ("click", "cart", "like")]
        >>> problem = ProblemSpec(
        ...     features=(categorical("ad"),), tasks=tuple(tasks), drop_if=("click", "cart")
        ... )
        >>> follows(problem, "click", "cart"), follows(problem, "cart", "like")
        (True, False)
    """
    before, after = problem.task(earlier), problem.task(later)
    if before.kind != "binary" or after.kind != "binary":
        return False
    if (before.label, before.positive) == (after.label, after.positive):
        return True
    needs = {task.label: task.observed_if for task in problem.tasks if task.observed_if}
    if problem.drop_if is not None:
        needs.setdefault(problem.drop_if[1], problem.drop_if[0])
    label: str | None = after.label
    seen: set[str] = set()
    while label is not None and label not in seen:
        seen.add(label)
        label = needs.get(label)
        if label == before.label:
            return True
    return False


def loose_links(problem: ProblemSpec, tasks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Neighbours among tasks of which the declaration does not say that one follows the other.

    Args:
        problem: The declaration.
        tasks: Tasks in the order of a chain.
    """
    return tuple(
        (earlier, later)
        for earlier, later in zip(tasks, tasks[1:], strict=False)
        if not follows(problem, earlier, later)
    )
