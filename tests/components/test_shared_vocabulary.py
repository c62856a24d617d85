"""A shared vocabulary in TensorFlow Transform has the ids that it has in memory."""

import numpy as np
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from components.analyzers import TransformAnalyzers, vocabulary_size
from tests.doubles.histories import problem, rows
from tfmtl.declare.layout import table_rows_of
from tfmtl.features.encode import encode
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import example_spec

COUNT = 60


def test_transform_and_memory_give_equal_packed_ids_and_tables(tmp_path):
    declared, columns = problem(), rows(COUNT)
    preprocessor = Preprocessor(declared)
    expected = preprocessor.fit(columns)
    spec = example_spec(declared.columns())
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    data = [
        {
            name: np.atleast_1d(np.asarray(columns[name][i], dtype=_kind(column.dtype)))
            for name, column in declared.columns().items()
        }
        for i in range(COUNT)
    ]
    with tft_beam.Context(temp_dir=str(tmp_path / "temp")):
        (rows_of, _), graph = (data, metadata) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: encode(declared, inputs, TransformAnalyzers())
        )
        _ = graph | tft_beam.WriteTransformFn(str(tmp_path / "graph"))
    ids = np.stack([row["ids_user"] for row in rows_of])
    np.testing.assert_array_equal(ids, expected["ids_user"])
    output = tft.TFTransformOutput(str(tmp_path / "graph"))
    sizes = table_rows_of(declared, lambda name: vocabulary_size(declared, output, name))
    # TensorFlow Transform writes a line for a vocabulary without values: a row that nothing reads.
    spare = {name: sizes[name] - count for name, count in preprocessor.table_rows().items()}
    assert spare == {**dict.fromkeys(spare, 0), "category": 1}


def _kind(dtype):
    return {"string": object, "int64": np.int64, "float32": np.float32}[dtype]
