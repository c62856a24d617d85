"""Writes fitted statistics as TFX's transform graph, which TensorFlow Transform's classes open.

The SavedModel has the function that those classes and the exported models call, `transform_fn`, and
`pack`, which does the same for serialised tf.Examples. Both are `encode` with the same tables, so
training rows are packed by the graph that serves.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from components.analyzers import vocabulary_file
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError
from tfmtl.features.analyzers import Lookup
from tfmtl.features.collect import parse, raw_columns
from tfmtl.features.encode import encode
from tfmtl.features.raw import NO_INTEGER
from tfmtl.features.rows import packed_spec

LINES_AT_ONCE = 1 << 20
# The one line of a file without values, because TensorFlow makes no table of an empty file. It is
# no value that is looked up: no text has a NUL, and the integer means "missing".
NO_VALUE = {tf.string: b"\0", tf.int64: str(NO_INTEGER).encode()}
NO_SUM = b"0 -"
FEATURE_TYPES = {
    "string": schema_pb2.FeatureType.BYTES,
    "int64": schema_pb2.FeatureType.INT,
    "float32": schema_pb2.FeatureType.FLOAT,
}


def write_graph(
    folder: str,
    problem: ProblemSpec,
    schema: schema_pb2.Schema,
    fitted: Mapping[str, Any],
    *,
    null_values: Sequence[str],
    scratch: str,
) -> "Packing":
    """Writes a TransformGraph artifact, and returns what it saved; see `free_tables`.

    Args:
        folder: The artifact's folder.
        problem: The declaration.
        schema: The raw rows' schema, as `declared_schema` returns it.
        fitted: Statistics by key, as `fitted_values` returns them.
        null_values: Text that means "missing", as in `encode`.
        scratch: A folder for files that are copied into the SavedModel.
    """
    files = FittedFiles(fitted, scratch)
    module = Packing(problem, schema, files, null_values)
    tf.saved_model.save(module, os.path.join(folder, tft.TFTransformOutput.TRANSFORM_FN_DIR))
    raw = os.path.join(folder, tft.TFTransformOutput.RAW_METADATA_DIR)
    metadata_io.write_metadata(dataset_metadata.DatasetMetadata(schema), raw)
    packed = os.path.join(folder, tft.TFTransformOutput.TRANSFORMED_METADATA_DIR)
    metadata_io.write_metadata(
        dataset_metadata.DatasetMetadata.from_feature_spec(packed_spec(problem)), packed
    )
    with tf.io.gfile.GFile(os.path.join(packed, tft.TFTransformOutput.ASSET_MAP), "w") as file:
        file.write(json.dumps(files.names))
    return module


def declared_schema(problem: ProblemSpec, schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """The schema with the declared types of the declared columns.

    A schema that was inferred cannot know the type of a column without values.

    Raises:
        DataError: A declared column is not in it.
    """
    declared = schema_pb2.Schema()
    declared.CopyFrom(schema)
    features = {feature.name: feature for feature in declared.feature}
    columns = problem.columns()
    missing = [name for name in columns if name not in features]
    if missing:
        raise DataError(
            f"columns {missing} are declared, but the schema of the examples has only "
            f"{sorted(features)}."
        )
    for name, column in columns.items():
        wanted = FEATURE_TYPES[column.dtype]
        if features[name].type != wanted:
            features[name].type = wanted
            # What it says about the values is of the other type.
            features[name].ClearField(features[name].WhichOneof("domain_info") or "domain")
    return declared


class FittedFiles:
    """Analyzers that answer from fitted statistics: tables from files, numbers as constants.

    Args:
        fitted: Statistics by key, as `fitted_values` returns them.
        folder: The files are written here. They must be there until the SavedModel is saved.

    Attributes:
        names: The asset's file name by the name of `vocabulary_file`, for TensorFlow Transform.
        tables: The tables, for the module to track.
    """

    def __init__(self, fitted: Mapping[str, Any], folder: str):
        self._fitted, self._folder = fitted, folder
        self.names: dict[str, str] = {}
        self.tables: dict[str, tf.lookup.StaticHashTable] = {}
        tf.io.gfile.makedirs(folder)

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`."""
        key = f"vocabulary/{name}"
        if key not in self.tables:
            file = vocabulary_file(name)
            path = os.path.join(self._folder, file)
            write_lines(path, vocabulary_lines(self._fitted[key]), NO_VALUE[values.dtype])
            self.names[file] = file
            whole = tf.lookup.TextFileIndex.WHOLE_LINE if values.dtype == tf.string else 0
            self._make(key, path, values.dtype, whole, tf.int64, -1)
        return lambda x: self.tables[key].lookup(x)

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        mean, std = self._fitted[f"moments/{name}"]
        return tf.constant(mean, tf.float64), tf.constant(std, tf.float64)

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        return tf.constant(self._fitted[f"quantiles/{name}"])

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        key = f"sums/{name}"
        if key not in self.tables:
            path = os.path.join(self._folder, vocabulary_file(key))
            write_lines(path, sum_lines(*self._fitted[key]), NO_SUM)
            self._make(key, path, tf.string, 1, tf.float32, 0)
        return lambda x: self.tables[key].lookup(x)

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        return self.sums(name, keys, keys), *self.moments(f"{name}_log", keys)

    def _make(
        self, key: str, path: str, key_dtype: tf.DType, index: int, dtype: tf.DType, default: int
    ) -> None:
        line = tf.lookup.TextFileIndex.LINE_NUMBER if dtype == tf.int64 else 0
        with tf.init_scope():
            initializer = tf.lookup.TextFileInitializer(
                path, key_dtype, index, dtype, line, delimiter=" "
            )
            self.tables[key] = tf.lookup.StaticHashTable(initializer, default)


class Packing(tf.Module):
    """The module that is saved.

    Args:
        problem: The declaration.
        schema: The raw rows' schema.
        analyzers: Fitted statistics.
        null_values: Text that means "missing", as in `encode`.

    Attributes:
        transform_fn: Raw columns, dense or sparse as in the schema, to packed tensors.
        pack: Serialised tf.Examples `[batch]` to packed tensors.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        schema: schema_pb2.Schema,
        analyzers: FittedFiles,
        null_values: Sequence[str],
    ):
        super().__init__(name="packing")
        columns = raw_columns(problem)
        names = packed_spec(problem)
        spec = schema_utils.schema_as_feature_spec(schema).feature_spec

        def transform_fn(inputs: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            return encode(problem, inputs, analyzers, null_values=null_values)

        def pack(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            packed = encode(problem, parse(serialized, columns), analyzers, null_values=null_values)
            return {name: packed[name] for name in names}

        signature = {name: _type_spec(feature) for name, feature in spec.items()}
        serialized = tf.TensorSpec([None], tf.string)
        # As concrete functions, so that saving does not trace them again.
        self.transform_fn = tf.function(
            transform_fn, [signature], autograph=False
        ).get_concrete_function()
        self.pack = tf.function(pack, [serialized], autograph=False).get_concrete_function()
        # Tracked, so that they are saved.
        self.tables = analyzers.tables


def free_tables(tables: Mapping[str, tf.lookup.StaticHashTable]) -> None:
    """Frees the memory of tables; TensorFlow itself keeps it until the process ends."""
    for table in tables.values():
        tf.raw_ops.DestroyResourceOp(resource=table.resource_handle, ignore_lookup_error=True)


def vocabulary_lines(values: pa.Array) -> pa.Array:
    """One line per value."""
    return pc.cast(values, pa.string()) if pa.types.is_integer(values.type) else values


def sum_lines(keys: pa.ChunkedArray, totals: Any) -> pa.ChunkedArray:
    """A line `total key` per key whose total is not 0."""
    table = pa.table({"key": keys, "total": totals})
    table = table.filter(pc.greater(table["total"], 0)).sort_by("key")
    text = pc.cast(pc.cast(table["total"], pa.string()), pa.large_binary())
    return pc.binary_join_element_wise(
        text, pc.cast(table["key"], pa.large_binary()), pa.scalar(b" ", pa.large_binary())
    )


def write_lines(path: str, lines: pa.Array | pa.ChunkedArray, otherwise: bytes) -> None:
    """Writes lines to a text file, or the one line `otherwise`: no table is made of none."""
    with tf.io.gfile.GFile(path, "wb") as file:
        for start in range(0, len(lines), LINES_AT_ONCE):
            part = lines.slice(start, LINES_AT_ONCE)
            if pa.types.is_string(part.type):
                part = pc.cast(part, pa.binary())
            file.write(b"\n".join(part.to_pylist()) + b"\n")
        if not len(lines):
            file.write(otherwise + b"\n")


def _type_spec(feature: Any) -> Any:
    if isinstance(feature, tf.io.FixedLenFeature):
        return tf.TensorSpec([None, *feature.shape], feature.dtype)
    return tf.SparseTensorSpec([None, None], feature.dtype)
