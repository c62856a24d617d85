"""The one declaration from which everything else is derived: what is known, what is asked.

    PROBLEM = ProblemSpec(
        features=(
            categorical("user_id", dim=16, side="user"),
            numerical("price", side="ad"),
        ),
        tasks=(
            binary("ctr", label="click"),
            binary("cvr", label="conversion", observed_if="click"),
            binary("ctcvr", label="conversion"),
        ),
        scene="scene", request_id="request_id", time="day",
    )

The columns that ExampleGen needs, the preprocessing, the tables, the heads, the masks, the metrics
and the space they are computed on, the slices and the serving signatures all come from it.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import check_setting, check_settings, filled, from_plain, one_of
from tfmtl.declare.contradictions import (
    check_context,
    check_heads,
    check_indicators,
    check_labels,
    check_names,
    check_spaces,
    check_target_encodings,
)
from tfmtl.declare.features import (
    FEATURE_KINDS,
    Categorical,
    Column,
    CountEncoding,
    Feature,
    Numerical,
    TargetEncoding,
    categorical,
    count_encoding,
    numerical,
    target_encoding,
)
from tfmtl.declare.names import check_column_names
from tfmtl.declare.sequences import SequenceFeature, event, sequence
from tfmtl.declare.sharing import resolved
from tfmtl.declare.tasks import Task, binary, regression
from tfmtl.errors import SpecError, did_you_mean

__all__ = [
    "Categorical",
    "Column",
    "CountEncoding",
    "Feature",
    "Numerical",
    "ProblemSpec",
    "SequenceFeature",
    "TargetEncoding",
    "Task",
    "binary",
    "categorical",
    "count_encoding",
    "event",
    "numerical",
    "regression",
    "sequence",
    "target_encoding",
]

ORPHANS = ("negative", "positive")
CONTEXT = ("scene", "request_id", "user_id", "time")
"""Fields of a problem that name a column which is no feature."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemSpec:
    """Features, tasks and the columns that give rows their context.

    Args:
        features: What the model may read; see `categorical`, `numerical`, `count_encoding`,
            `target_encoding`, `sequence`.
        tasks: What it predicts, in the order of all task vectors `[K]`; see `binary`,
            `regression`.
        scene: Column with the scene (news feed, search) of a row; metrics are sliced by it.
        request_id: Column that groups the rows shown together. Splits never cut a request.
        user_id: Column that identifies the user; needed only to split or group by user.
        time: Column that orders the rows: a number (day index, epoch seconds) or an ISO date.
        space: What one row is, in metric names: `ctr/auc@imp`. `"imp"` for impressions.
        indicators: Columns of 0 and 1, neither features nor labels, that `observed_if` may name:
            `ctr_traffic` for rows whose click-through rate is used at all.
        drop_if: Reads "drop rows where the second label is positive and the first is not", as
            `("click", "conversion")`. Such rows are always counted, dropped only where asked.
        orphans: What a conversion without a click is to `ctcvr`, the task on all rows whose label
            another task has after a click. `"negative"`, because the rate is that of a click and
            a conversion (ESMM, Ma et al., SIGIR 2018, eq. 1; so has MTMS); `"positive"` takes the
            label as it is.

    Raises:
        SpecError: The declaration contradicts itself; the message names the field and the
            likely fix.
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    scene: str | None = None
    request_id: str | None = None
    user_id: str | None = None
    time: str | None = None
    space: str = "imp"
    drop_if: tuple[str, str] | None = None
    indicators: tuple[str, ...] = ()
    orphans: str = "negative"

    def __post_init__(self) -> None:
        for field in ("features", "tasks", "indicators", "drop_if"):
            value = getattr(self, field)
            object.__setattr__(self, field, tuple(value) if isinstance(value, list) else value)
        columns = (*CONTEXT, "space", "indicators", "drop_if")
        limits = {"orphans": one_of(ORPHANS), **dict.fromkeys(columns, filled())}
        check_settings("problem.", self, limits)
        check_names(self.features, self.tasks)
        object.__setattr__(self, "features", resolved(self.features, self.time))
        read = {column.name: f.name for f in self.features for column in f.columns()}
        check_labels(self.tasks, self.indicators, read)
        check_indicators(self.tasks, self.indicators, read)
        check_spaces(self.tasks)
        check_heads(self.tasks)
        context = {name: getattr(self, name) for name in CONTEXT}
        check_context(self.tasks, context, self.drop_if)
        check_column_names(self.feature_columns())
        check_target_encodings(self.features, self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(task.name for task in self.tasks)

    @property
    def served(self) -> tuple[Task, ...]:
        """Tasks that a served model predicts: what is measured, blessed and exported."""
        return tuple(task for task in self.tasks if task.served)

    @property
    def labels(self) -> tuple[str, ...]:
        """Columns that hold labels, in order of first use."""
        return tuple(dict.fromkeys(task.label for task in self.tasks))

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            SpecError: There is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = self.task_names
        raise SpecError(f"no task {name!r}; tasks are {list(known)}.{did_you_mean(name, known)}")

    def space_of(self, task: Task | str) -> str:
        """The rows a task is measured on: `click` for rows with a click, else `self.space`.

        Where only some rows of a space have a label, as impressions do, both are named:
        `ctr_traffic&is_impression`.
        """
        task = self.task(task) if isinstance(task, str) else task
        parts = [part for part in (task.observed_if, task.labelled_if) if part]
        return "&".join(parts) or self.space

    def metric_name(self, task: Task | str, metric: str) -> str:
        """The full name of a metric, as `cvr/auc@click`."""
        task = self.task(task) if isinstance(task, str) else task
        return f"{task.name}/{metric}@{self.space_of(task)}"

    def funnel(self) -> tuple[str, str, str] | None:
        """Names of `(ctr, cvr, ctcvr)` where the tasks form a conversion funnel, else `None`.

        A funnel is a binary task on all rows, a binary task observed where that label is
        positive, and a third on all rows with the label of the second.
        """
        with_head = [t for t in self.tasks if t.kind == "binary" and t.head is None]
        everywhere = [t for t in with_head if t.observed_if is None]
        for cvr in with_head:
            if cvr.observed_if is None:
                continue
            ctr = [t for t in everywhere if t.label == cvr.observed_if]
            ctcvr = [t for t in everywhere if (t.label, t.positive) == (cvr.label, cvr.positive)]
            if ctr and ctcvr:
                return ctr[0].name, cvr.name, ctcvr[0].name
        return None

    def label_before(self, task: Task) -> str | None:
        """The label without which a task's own is no positive; see `orphans`."""
        if self.orphans == "positive" or task.kind != "binary" or task.soft or task.observed_if:
            return None
        for other in self.tasks:
            same = (other.label, other.positive) == (task.label, task.positive)
            if same and other.kind == "binary" and other.observed_if in self.labels:
                return other.observed_if
        return None

    @property
    def sequences(self) -> tuple[SequenceFeature, ...]:
        """The behaviour sequences among the features."""
        return tuple(f for f in self.features if isinstance(f, SequenceFeature))

    def of_sides(self, sides: Sequence[str]) -> "ProblemSpec":
        """The problem with the features of some sides alone, as a tower reads it.

        It is already checked as a whole. A feature may share the table of one that is left out.
        """
        part = copy.copy(self)
        features = tuple(feature for feature in self.features if feature.side in sides)
        object.__setattr__(part, "features", features)
        return part

    def scene_feature(self) -> Categorical | None:
        """The feature whose ids are the scenes: the first single-valued one of that column."""
        for feature in self.features:
            if isinstance(feature, Categorical) and feature.column == self.scene:
                if not feature.max_values:
                    return feature
        return None

    def feature_columns(self) -> dict[str, Column]:
        """Raw columns the features read, by name: the inputs of serving."""
        columns: dict[str, Column] = {}
        for feature in self.features:
            for column in feature.columns():
                known = columns.get(column.name)
                if known is not None and known != column:
                    raise SpecError(
                        f"column {column.name!r} is read as {known.describe()} and by feature "
                        f"{feature.name!r} as {column.describe()}; one column has one type. Give "
                        "both features the same dtype= and max_values=, or copy the column."
                    )
                columns[column.name] = column
        return columns

    def label_columns(self) -> dict[str, Column]:
        """Raw columns the tasks read: labels, pseudo-labels, sample spaces, example weights."""
        columns: dict[str, Column] = {}
        for task in self.tasks:
            for column in task.columns():
                if column.name not in columns or column.dtype == "string":
                    columns[column.name] = column
        return columns | {n: Column(name=n, dtype="float32") for n in self.indicators}

    def context_columns(self) -> dict[str, Column]:
        """Raw columns that are neither features nor labels: scene, request, user, time."""
        context = [getattr(self, name) for name in CONTEXT]
        taken = {**self.feature_columns(), **self.label_columns()}
        return {
            name: Column(name=name, dtype="string")
            for name in context
            if name and name not in taken
        }

    def columns(self) -> dict[str, Column]:
        """Every raw column that must be in the data."""
        return {**self.feature_columns(), **self.label_columns(), **self.context_columns()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, from which `from_json` makes an equal problem."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["features"] = [
            {"kind": f.kind, **{k: v for k, v in dataclasses.asdict(f).items()}}
            for f in self.features
        ]
        plain["tasks"] = [dataclasses.asdict(t) for t in self.tasks]
        plain["drop_if"] = list(self.drop_if) if self.drop_if else None
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "ProblemSpec":
        """The problem that `to_json` wrote.

        Raises:
            SpecError: A field is unknown, missing or wrong.
        """
        check_setting("problem", plain, Mapping[str, Any])
        arguments = dict(plain)
        for field in ("features", "tasks"):
            check_setting(f"problem.{field}", plain.get(field, ()), Sequence[Mapping[str, Any]])
            arguments[field] = tuple(
                _from_plain(field, f"problem.{field}.{i}", part)
                for i, part in enumerate(plain.get(field, ()))
            )
        return from_plain(cls, "problem", arguments)


def _from_plain(field: str, name: str, plain: Mapping[str, Any]) -> Any:
    if field == "tasks":
        return from_plain(Task, name, plain)
    check_setting(f"{name}.kind", plain.get("kind"), str, one_of(tuple(FEATURE_KINDS)))
    rest = {key: value for key, value in plain.items() if key != "kind"}
    return from_plain(FEATURE_KINDS[plain["kind"]], name, rest)
