"""Exports a trained model as a SavedModel that maps raw features to predictions.

Signatures:

- `serving_default`: serialised tf.Examples `[batch]` to `{task: [batch]}`.
- `predict`: raw columns by name, `[batch]` or `[batch, n]` for lists, to `{task: [batch]}`.
- `transform_features`: serialised tf.Examples to the packed tensors that the model reads.
- `user_tower`, `ad_tower`, `rank`: for a backbone of towers; see `tfmtl.serving.towers`.

The transform graph is included. Labels, towers of tasks that are only trained, balancer and
optimizers are not.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfmtl.data import columns as features
from tfmtl.declare.layout import GROUP
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.features.raw import dense_columns, example_spec
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.signature_names import argument_names, rename_inputs
from tfmtl.serving.towers import tower_signatures, traced, traced_columns
from tfmtl.serving.warmup import synthetic_inputs, write_warmup

WARMUPS = ("synthetic", "none")

Transform = Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


class ServingModel(tf.Module):
    """The model behind the signatures.

    Args:
        model: A trained model.
        transform: Dense raw columns to packed tensors: a fitted `Preprocessor`, or the
            pipeline's Transform. It must track what it holds (tables, assets).
        value: How `rank` combines predictions into one value, for a backbone of towers.

    Raises:
        SpecError: The value needs a task that the model does not serve.
    """

    def __init__(
        self, model: MultiTaskModel, transform: Transform, value: TotalValue | None = None
    ) -> None:
        super().__init__(name="ranker")
        self.columns = model.problem.feature_columns()
        self.transform = transform
        self._apply = model.predict_served
        # The parts instead of the model, with which its optimizers, its balancer and the heads of
        # tasks that are not served would be saved.
        self.parts = model.served_parts()
        # A partial, not the functions: as attributes they would be saved in any case.
        self.names = argument_names(self.columns)
        self._of_towers = functools.partial(
            tower_signatures, model, transform, value, names=self.names
        )

    def signatures(self) -> dict[str, Any]:
        """The concrete functions to save, by signature name."""
        examples = tf.TensorSpec([None], tf.string, "examples")
        return {
            "serving_default": traced(self._from_examples, examples),
            "predict": traced_columns(self._from_columns, self.columns, self.names),
            "transform_features": traced(self._packed_examples, examples),
            **self._of_towers(),
        }

    def _from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(self._parse(examples))

    def _from_columns(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._predict(dense_columns(self.columns, columns))

    def _packed_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        packed = self.transform(self._parse(examples))
        return {name: value for name, value in packed.items() if name != GROUP}

    def _parse(self, examples: tf.Tensor) -> Mapping[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, example_spec(self.columns))
        return dense_columns(self.columns, parsed)

    def _predict(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        predictions = self._apply(self.transform(columns))
        return {task: tf.identity(value, name=task) for task, value in predictions.items()}


def export(
    model: MultiTaskModel,
    transform: Transform,
    path: str,
    *,
    value: TotalValue | None = None,
    warmup: str | Sequence[bytes] = "synthetic",
    extra: Mapping[str, str] | None = None,
) -> str:
    """Writes the SavedModel and returns its path.

    Args:
        model: A trained model.
        transform: See `ServingModel`.
        path: Folder to write.
        value: How `rank` combines predictions into one value, for a backbone of towers; not used
            for other backbones.
        warmup: What a server runs before the first request, so that this one is not slow:
            `synthetic`, made-up rows for every signature in batches of 1, 32 and 512; `none`; or
            serialised tf.Examples for `serving_default`. Examples of real rows would go out with
            the model.
        extra: Texts to write to `assets.extra/`, by file name.

    Raises:
        SpecError: The value needs a task that the model does not serve, or `warmup` is unknown.
    """
    if isinstance(warmup, str) and warmup not in WARMUPS:
        raise SpecError(
            f"warmup={warmup!r} is none of {list(WARMUPS)}.{did_you_mean(warmup, WARMUPS)}"
        )
    serving = ServingModel(model, transform, value)
    signatures = serving.signatures()
    tf.saved_model.save(serving, path, signatures=signatures)
    rename_inputs(path, serving.names)
    folder = os.path.join(path, "assets.extra")
    tf.io.gfile.makedirs(folder)
    if warmup == "synthetic":
        write_warmup(folder, synthetic_inputs(signatures, serving.names, model.problem, value))
    elif warmup and warmup != "none":
        given = np.array(list(warmup), object)
        write_warmup(folder, iter([("serving_default", {"examples": given})]))
    texts = dict(extra or {})
    calibrators = model.calibrators
    if calibrators is not None:
        texts["calibration.json"] = calibrators.record_json
    for name, text in texts.items():
        with tf.io.gfile.GFile(os.path.join(folder, name), "w") as file:
            file.write(text)
    return path


def to_examples(problem: ProblemSpec, columns: Mapping[str, Sequence[Any]]) -> list[bytes]:
    """Serialises raw feature columns as the tf.Examples that `serving_default` reads.

    Args:
        problem: The declaration.
        columns: Values by column name, one a row; lists for list columns; `None` is missing. A
            value has the text that it has in training: 7.0 beside a gap is "7", true is "True".

    Raises:
        DataError: A declared column is not given, columns differ in length, or a value is not
            of its column's type.
    """
    declared = problem.feature_columns()
    missing = [name for name in declared if name not in columns]
    if missing:
        raise DataError(f"columns {missing} are declared but not given; got {list(columns)}.")
    arrays = {n: features.declared(c, columns[n]) for n, c in declared.items()}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise DataError(f"columns need one number of rows; got {rows}.")
    examples = [tf.train.Example() for _ in range(max(rows.values()))]
    for name, column in declared.items():
        for example, value in zip(examples, arrays[name].to_pylist(), strict=True):
            values = value if isinstance(value, list) else [] if value is None else [value]
            _put(example.features.feature[name], column.dtype, values)
    return [example.SerializeToString() for example in examples]


def _put(feature: Any, dtype: str, values: Sequence[Any]) -> None:
    if dtype == "string":
        feature.bytes_list.value.extend(value.encode() for value in values)
    elif dtype == "int64":
        feature.int64_list.value.extend(values)
    else:
        feature.float_list.value.extend(values)
