"""What a problem's parts must not say of each other; each check names the field and the likely fix.

All functions here raise `SpecError` or return nothing.
"""

from collections.abc import Mapping, Sequence

from tfmtl.declare.features import Feature, TargetEncoding
from tfmtl.declare.tasks import Task
from tfmtl.errors import SpecError, did_you_mean


def check_names(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """Refuses a problem without features or tasks, and a name that is given twice."""
    for what, parts in (("feature", features), ("task", tasks)):
        if not parts:
            raise SpecError(f"{what}s: a problem needs at least one {what}; got none.")
        names = [part.name for part in parts]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(
                    f"{what} {name!r} is declared twice. Give one of them another name; "
                    "its column= may stay the same."
                )


def check_labels(tasks: Sequence[Task], indicators: Sequence[str], read: Mapping[str, str]) -> None:
    """Refuses labels that features read, and sample spaces that are not declared.

    Args:
        tasks: The problem's tasks.
        indicators: Its indicators.
        read: Name of a feature by the raw column that it reads.
    """
    labels = _labels(tasks)
    for task in tasks:
        _check_leaks(task, read)
        _check_space(task, labels, indicators)
        if task.weight is not None and task.weight in labels:
            raise SpecError(
                f"task {task.name!r}: weight={task.weight!r} is a label. A sample space is "
                f"declared as observed_if={task.weight!r}."
            )
        for other in tasks:
            if other.label == task.label and (other.positive is None) != (task.positive is None):
                raise SpecError(
                    f"tasks {task.name!r} and {other.name!r} share the label {task.label!r}, which "
                    "is text for one (positive=) and a number for the other. Give both "
                    "positive=, or copy the column."
                )


def check_indicators(
    tasks: Sequence[Task], indicators: Sequence[str], read: Mapping[str, str]
) -> None:
    """Refuses indicators that are labels or features; arguments as in `check_labels`."""
    for name in indicators:
        if name in _labels(tasks) or name in read:
            what = "a label" if name in _labels(tasks) else f"read by feature {read[name]!r}"
            raise SpecError(
                f"indicators: {name!r} is {what}; an indicator only says which rows a task is "
                "observed on. A label may be named by observed_if= as it is."
            )


def check_spaces(tasks: Sequence[Task]) -> None:
    """Refuses a sample space whose label is not binary, or has several meanings."""
    labels = _labels(tasks)
    for space in {t.observed_if for t in tasks if t.observed_if in labels}:
        owners = [t for t in tasks if t.label == space]
        if all(t.kind != "binary" for t in owners):
            raise SpecError(
                f"observed_if={space!r} is the label of a {owners[0].kind} task; a sample space "
                "needs a binary label."
            )
        values = {t.positive for t in owners if t.kind == "binary"}
        if len(values) > 1:
            raise SpecError(
                f"observed_if={space!r} could mean any of positive={sorted(map(str, values))}, "
                "which are tasks of that one column. Give the sample space a 0/1 column of its own."
            )
        rows = {t.labelled_if for t in owners if t.kind == "binary"}
        if len(rows) > 1:
            raise SpecError(
                f"observed_if={space!r} could mean that label on the rows of any of labelled_if="
                f"{sorted(map(str, rows))}. Give all tasks of the label the same labelled_if=."
            )


def check_heads(tasks: Sequence[Task]) -> None:
    """Refuses a `head` that is no task with a head, and a problem of which nothing is served."""
    heads = [t.name for t in tasks if t.head is None and t.kind == "binary"]
    for task in tasks:
        if task.head is not None and task.head not in heads:
            raise SpecError(
                f"task {task.name!r}: head={task.head!r} is no binary task with a head of its "
                f"own; those are {heads}.{did_you_mean(task.head, heads)}"
            )
    if not any(task.served for task in tasks):
        raise SpecError("tasks: none is served, so there would be nothing to export.")


def check_context(
    tasks: Sequence[Task], context: Mapping[str, str | None], drop_if: Sequence[str] | None
) -> None:
    """Refuses a scene, request, user or time that is a label, and a `drop_if` of anything else.

    Args:
        tasks: The problem's tasks.
        context: Column by field, such as `scene`.
        drop_if: As in `ProblemSpec`.
    """
    labels = _labels(tasks)
    for field, name in context.items():
        if name is not None and name in labels:
            raise SpecError(f"{field}={name!r} is a label; name the column that holds the {field}.")
    for name in drop_if or ():
        if name not in labels:
            raise SpecError(
                f"drop_if names {name!r}, which is no label; labels are {list(labels)}."
                f"{did_you_mean(name, labels)}"
            )


def check_target_encodings(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """Refuses a target encoding of a task that is not declared."""
    names = [task.name for task in tasks]
    for feature in features:
        if isinstance(feature, TargetEncoding) and feature.task not in names:
            raise SpecError(
                f"feature {feature.name!r} encodes by task {feature.task!r}, which is not "
                f"declared; tasks are {names}.{did_you_mean(feature.task, names)}"
            )


def _labels(tasks: Sequence[Task]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(task.label for task in tasks))


def _check_leaks(task: Task, read: Mapping[str, str]) -> None:
    if task.label in read:
        raise SpecError(
            f"task {task.name!r}: its label {task.label!r} is also read by feature "
            f"{read[task.label]!r}, which would leak the answer. Remove the feature."
        )
    if task.pseudo_label is not None and task.pseudo_label in read:
        raise SpecError(
            f"task {task.name!r}: its pseudo_label {task.pseudo_label!r} is also read by "
            f"feature {read[task.pseudo_label]!r}, which would leak it. Remove the feature."
        )


def _check_space(task: Task, labels: Sequence[str], indicators: Sequence[str]) -> None:
    spaces = (*labels, *indicators)
    if task.observed_if is not None and task.observed_if not in spaces:
        known = f" and indicators {list(indicators)}" if indicators else ""
        raise SpecError(
            f"task {task.name!r} is observed_if={task.observed_if!r}, but no task has that "
            f"label; labels are {list(labels)}{known}.{did_you_mean(task.observed_if, spaces)}"
        )
    if task.labelled_if is not None and task.labelled_if not in indicators:
        raise SpecError(
            f"task {task.name!r} is labelled_if={task.labelled_if!r}, which is no indicator; "
            f"indicators are {list(indicators)}.{did_you_mean(task.labelled_if, indicators)}"
        )
    if task.observed_if == task.label:
        raise SpecError(
            f"task {task.name!r} is observed_if its own label {task.label!r}: every observed "
            "row would be positive. Name the label of the step before."
        )
