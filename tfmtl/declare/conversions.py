"""What a conversion's head means, and which tasks then have a logit and a loss of their own."""

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
