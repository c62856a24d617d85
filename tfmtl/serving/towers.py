"""Serving a model of two towers apart: vectors once, and a ranking from vectors.

Signatures, beside those of `tfmtl.serving.export`:

- `user_tower`: raw user and context columns by name to `vector` `[n, width]`, once a request.
- `ad_tower`: raw ad columns by name to `vector` `[n, width]`, once a catalogue.
- `rank`: a request's vector and its ads', bids, objectives and conversion rates to
  `total_value` `[n]` and every served task's prediction. Without a `TotalValue` it takes the
  vectors and gives the predictions alone.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfmtl.declare.features import Column
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.total_value import ACTIONS, TotalValue
from tfmtl.errors import SpecError
from tfmtl.features.raw import DTYPES, dense_columns
from tfmtl.model.multitask import MultiTaskModel, Packed

TOTAL_VALUE = "total_value"


def tower_signatures(
    model: MultiTaskModel, transform: Any, value: TotalValue | None = None
) -> dict[str, Callable]:
    """The towers' concrete functions by signature name; none for a model without towers.

    Args:
        model: A trained model.
        transform: See `tfmtl.serving.export.Transform`. It also has a `problem`, and encodes that
            problem's features and no others, as `Preprocessor` and the pipeline's do.
        value: How `rank` makes one value of predictions.

    Raises:
        SpecError: The value is made of what the model does not serve.
    """
    if model.tower_sides is None:
        return {}
    if value is not None:
        value.check_problem(model.problem)
        if TOTAL_VALUE in model.problem.task_names:
            raise SpecError(
                f"a task is called {TOTAL_VALUE!r}, as is what `rank` returns; rename the task."
            )
    towers = {
        f"{tower}_tower": _tower(model, transform, tower, sides)
        for tower, sides in model.backbone.tower_sides.items()
    }
    return {**towers, "rank": _rank(model, value)}


def tower_vector(model: MultiTaskModel, tower: str, packed: Packed) -> tf.Tensor:
    """A tower's vectors `[n, width]` of packed tensors, of which it reads its own sides' alone."""
    return getattr(model.backbone, tower)(model.embedding[tower](packed), training=False)


def join_vectors(model: MultiTaskModel, user: tf.Tensor, ads: tf.Tensor) -> dict[str, tf.Tensor]:
    """Served tasks' predictions `[n]` of users `[1 or n, width]` and ads `[n, width]`."""
    joined = model.backbone.join(user, ads, tasks=model.heads.served_tasks())
    outputs = model.heads(joined, training=False, served_only=True)
    return {task: output["prediction"] for task, output in outputs.items()}


def column_specs(columns: Mapping[str, Column]) -> dict[str, tf.TensorSpec]:
    """What raw columns are as named inputs: `[n]`, or `[n, values]` for lists."""
    return {
        name: tf.TensorSpec(
            [None, None] if column.max_values else [None], DTYPES[column.dtype], name
        )
        for name, column in columns.items()
    }


def traced(function: Callable, *specs: tf.TensorSpec, **named: tf.TensorSpec) -> Any:
    """The concrete function of inputs that `specs` describe."""
    # Nothing here branches on a tensor, and rewriting Python for it took nine tenths of an export.
    return tf.function(function, autograph=False).get_concrete_function(*specs, **named)


def _tower(model, transform, tower, sides):
    problem = _of_sides(model.problem, sides)
    columns = problem.feature_columns()
    # Tables and assets stay the one transform's; only what is encoded with them is narrower.
    narrow = copy.copy(transform)
    narrow.problem = problem

    def vector(**raw):
        packed = narrow(dense_columns(columns, raw))
        return {"vector": tf.identity(tower_vector(model, tower, packed), name="vector")}

    return traced(vector, **column_specs(columns))


def _of_sides(problem: ProblemSpec, sides: Sequence[str]) -> ProblemSpec:
    features = tuple(feature for feature in problem.features if feature.side in sides)
    return dataclasses.replace(problem, features=features)


def _rank(model, value):
    vectors = {
        name: tf.TensorSpec([None, model.backbone.width], tf.float32, name)
        for name in ("user", "ads")
    }

    def predictions(user, ads):
        joined = join_vectors(model, _one_or_each(user, ads), ads)
        return {task: tf.identity(found, name=task) for task, found in joined.items()}

    def rank(user, ads, bid, objective, rate):
        found = predictions(user, ads)
        clicks, converts = _needs(value, objective)
        pctr = found[value.ctr]
        cqs = found[value.cqs] if value.cqs else tf.zeros_like(pctr)
        total = value.combine(pctr, rate, cqs, bid, clicks, converts, xp=tf)
        return {TOTAL_VALUE: tf.identity(total, name=TOTAL_VALUE), **found}

    if value is None:
        return traced(predictions, **vectors)
    dtypes = {"bid": tf.float32, "objective": tf.string, "rate": tf.float32}
    auction = {name: tf.TensorSpec([None], dtype, name) for name, dtype in dtypes.items()}
    return traced(rank, **vectors, **auction)


def _needs(value: TotalValue, objective: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`TotalValue.needs`, in a graph."""
    of_name = {name: tf.equal(objective, name) for name in value.actions}
    known = _any(of_name.values(), objective)

    def refused():
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
        _any((found for n, found in of_name.items() if ACTIONS[value.actions[n]][part]), objective)
        for part in (0, 1)
    )
    return _where(tf.reduce_all(known), clicks, refused), converts


def _any(found: Iterable[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    return functools.reduce(tf.logical_or, found, tf.zeros_like(like, tf.bool))


def _one_or_each(user: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
    users, rows = tf.shape(user)[0], tf.shape(ads)[0]

    def refused():
        return [
            "rank: user has ",
            tf.strings.as_string(users),
            " rows for ",
            tf.strings.as_string(rows),
            " ads; one row for all ads, or one for each, would be right.",
        ]

    return _where((users == 1) | (users == rows), user, refused)


def _where(condition: tf.Tensor, tensor: tf.Tensor, refused: Callable[[], list]) -> tf.Tensor:
    """The tensor, or a failing request with the sentence that `refused` gives."""

    def fail():
        # What reads the tensor waits; else an error of TensorFlow's own might come first.
        with tf.control_dependencies([tf.debugging.Assert(False, [tf.strings.join(refused())])]):
            return tf.identity(tensor)

    # A branch, for making the sentence takes longer than ranking a hundred ads.
    return tf.cond(condition, lambda: tf.identity(tensor), fail)
