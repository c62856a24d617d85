"""Serving the two towers of a model apart: vectors computed once, and a ranking from vectors.

Signatures, in addition to those of `tfmtl.serving.export`:

- `user_tower`: raw user and context columns by name to `vector` `[n, width]`, once per request.
- `ad_tower`: raw ad columns by name to `vector` `[n, width]`, once per catalogue.
- `rank`: the user's vector, the ads' vectors, bids, objectives and conversion rates to
  `total_value` `[n]` and the prediction of every served task. Without a `TotalValue` it takes the
  vectors only and returns the predictions only.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfmtl.declare.features import Column
from tfmtl.declare.total_value import ACTIONS, TotalValue
from tfmtl.errors import SpecError
from tfmtl.features.raw import DTYPES, dense_columns
from tfmtl.metrics.packed import Packed
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.signature_names import argument_names

TOTAL_VALUE = "total_value"


def tower_signatures(
    model: MultiTaskModel,
    transform: Any,
    value: TotalValue | None = None,
    *,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The towers' concrete functions by signature name; none for a model without towers.

    Args:
        model: A trained model.
        transform: See `tfmtl.serving.export.Transform`. It also has a `problem`, and encodes that
            problem's features and no others, as `Preprocessor` and the pipeline's do.
        value: How `rank` makes one value of predictions.
        names: Argument name by raw column; those of `argument_names` if not given.

    Raises:
        SpecError: The value needs a task that the model does not serve.
    """
    if model.tower_sides is None:
        return {}
    if value is not None:
        value.check_problem(model.problem)
        if TOTAL_VALUE in model.problem.task_names:
            raise SpecError(
                f"a task is called {TOTAL_VALUE!r}, as is what `rank` returns; rename the task."
            )
    names = names or argument_names(model.problem.feature_columns())
    towers = {
        f"{tower}_tower": _tower(model, transform, tower, sides, names)
        for tower, sides in model.backbone.tower_sides.items()
    }
    return {**towers, "rank": _rank(model, value)}


def tower_vector(model: MultiTaskModel, tower: str, packed: Packed) -> tf.Tensor:
    """A tower's vectors `[n, width]` of packed tensors; it reads only the features of its sides."""
    return getattr(model.backbone, tower)(model.embedding[tower](packed), training=False)


def join_vectors(model: MultiTaskModel, user: tf.Tensor, ads: tf.Tensor) -> dict[str, tf.Tensor]:
    """Predictions `[n]` of the served tasks, from users `[1 or n, width]` and ads `[n, width]`."""
    joined = model.backbone.join(user, ads, tasks=model.heads.served_tasks())
    outputs = model.heads(joined, training=False, served_only=True, calibrated=True)
    return {task: output["prediction"] for task, output in outputs.items()}


def column_specs(columns: Mapping[str, Column]) -> dict[str, tf.TensorSpec]:
    """The specs of raw columns as named inputs: `[n]`, or `[n, values]` for lists."""
    return {
        name: tf.TensorSpec([None, None] if column.max_values else [None], DTYPES[column.dtype])
        for name, column in columns.items()
    }


def traced(function: Callable[..., Any], *specs: tf.TensorSpec, **named: tf.TensorSpec) -> Any:
    """The concrete function for inputs that `specs` describe."""
    # Without autograph: no function here branches on a tensor, and it took 90 % of an export.
    return tf.function(function, autograph=False).get_concrete_function(*specs, **named)


def traced_columns(
    function: Callable[..., Any], columns: Mapping[str, Column], names: Mapping[str, str]
) -> Any:
    """The concrete function of raw columns, under argument names that TensorFlow keeps.

    Args:
        function: Maps raw columns by name to tensors.
        columns: The columns.
        names: Argument name by column, see `tfmtl.serving.signature_names`.
    """
    specs = column_specs(columns)
    named = {names[c]: tf.TensorSpec(s.shape, s.dtype, names[c]) for c, s in specs.items()}

    def of_arguments(**arguments: tf.Tensor) -> Any:
        return function({column: arguments[names[column]] for column in columns})

    return traced(of_arguments, **named)


def _tower(
    model: MultiTaskModel,
    transform: Any,
    tower: str,
    sides: Sequence[str],
    names: Mapping[str, str],
) -> Any:
    problem = model.problem.of_sides(sides)
    columns = problem.feature_columns()
    # A shallow copy shares tables and assets with the transform, and encodes fewer features.
    narrow = copy.copy(transform)
    narrow.problem = problem

    def vector(raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        packed = narrow(dense_columns(columns, raw))
        return {"vector": tf.identity(tower_vector(model, tower, packed), name="vector")}

    return traced_columns(vector, columns, names)


def _rank(model: MultiTaskModel, value: TotalValue | None) -> Any:
    vectors = {
        name: tf.TensorSpec([None, model.backbone.width], tf.float32, name)
        for name in ("user", "ads")
    }

    def predictions(user: tf.Tensor, ads: tf.Tensor) -> dict[str, tf.Tensor]:
        joined = join_vectors(model, _one_or_each(user, ads), ads)
        return {task: tf.identity(values, name=task) for task, values in joined.items()}

    if value is None:
        return traced(predictions, **vectors)
    total_value = value

    def rank(
        user: tf.Tensor, ads: tf.Tensor, bid: tf.Tensor, objective: tf.Tensor, rate: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        by_task = predictions(user, ads)
        clicks, converts = _needs(total_value, objective)
        pctr = by_task[total_value.ctr]
        cqs = by_task[total_value.cqs] if total_value.cqs else tf.zeros_like(pctr)
        total = total_value.combine(pctr, rate, cqs, bid, clicks, converts, xp=tf)
        return {TOTAL_VALUE: tf.identity(total, name=TOTAL_VALUE), **by_task}

    dtypes = {"bid": tf.float32, "objective": tf.string, "rate": tf.float32}
    auction = {name: tf.TensorSpec([None], dtype, name) for name, dtype in dtypes.items()}
    return traced(rank, **vectors, **auction)


def _needs(value: TotalValue, objective: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`TotalValue.needs` in a graph."""
    of_name = {name: tf.equal(objective, name) for name in value.actions}
    known = _any(of_name.values(), objective)

    def message() -> list[Any]:
        unknown = tf.boolean_mask(objective, ~known)
        return [
            # Without quotation marks, which TensorFlow would escape.
            "objective ",
            tf.strings.reduce_join(unknown[:1]),
            f" is none of {', '.join(of_name)} (of ",
            tf.strings.as_string(tf.size(unknown)),
            " rows); TotalValue(actions=...) says what each pays for.",
        ]

    clicks, converts = (
        _any((is_n for n, is_n in of_name.items() if ACTIONS[value.actions[n]][part]), objective)
        for part in (0, 1)
    )
    return _where(tf.reduce_all(known), clicks, message), converts


def _any(conditions: Iterable[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    return functools.reduce(tf.logical_or, conditions, tf.zeros_like(like, tf.bool))


def _one_or_each(user: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
    users, rows = tf.shape(user)[0], tf.shape(ads)[0]

    def message() -> list[Any]:
        return [
            "rank: user has ",
            tf.strings.as_string(users),
            " rows for ",
            tf.strings.as_string(rows),
            " ads; one row for all ads, or one for each, would be right.",
        ]

    return _where((users == 1) | (users == rows), user, message)


def _where(condition: tf.Tensor, tensor: tf.Tensor, message: Callable[[], list[Any]]) -> tf.Tensor:
    """Returns the tensor if the condition holds; else the request fails with the message."""

    def fail() -> tf.Tensor:
        # The dependency makes readers of the tensor wait. Without it, an error inside TensorFlow
        # might come first.
        with tf.control_dependencies([tf.debugging.Assert(False, [tf.strings.join(message())])]):
            return tf.identity(tensor)

    # In a branch, because making the message takes longer than ranking a hundred ads.
    return tf.cond(condition, lambda: tf.identity(tensor), fail)
