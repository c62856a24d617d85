"""The pipeline's Transform and the in-memory preprocessing are the same encodings."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from components.analyzers import TransformAnalyzers, TransformGraph
from pipeline.trainer_module import table_rows
from tests.doubles.worlds import PROBLEM, rows
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.features.encode import encode
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import DTYPES, dense_columns

COUNT = 400


@pytest.fixture(scope="module")
def raw():
    return rows(COUNT)


@pytest.fixture(scope="module")
def fold():
    return np.arange(COUNT, dtype=np.int64) // 4 % 7


def instances(raw, fold):
    """Rows as TensorFlow Transform takes them: lists, empty where a value is missing."""
    lists = {FOLD: [[int(f)] for f in fold]}
    for name in PROBLEM.columns():
        values = raw[name]
        if isinstance(values, tf.RaggedTensor):
            lists[name] = values.to_list()
        else:
            lists[name] = [[] if v != v else [v] for v in values.tolist()]
    return [{name: column[i] for name, column in lists.items()} for i in range(COUNT)]


@pytest.fixture(scope="module")
def transformed(raw, fold, tmp_path_factory):
    spec = {n: tf.io.VarLenFeature(DTYPES[c.dtype]) for n, c in PROBLEM.columns().items()}
    spec[FOLD] = tf.io.VarLenFeature(tf.int64)
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    folder = tmp_path_factory.mktemp("transform")
    with tft_beam.Context(temp_dir=str(folder / "temp")):
        (data, _), function = (
            instances(raw, fold),
            metadata,
        ) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: encode(PROBLEM, inputs, TransformAnalyzers())
        )
        function | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / "metadata"))
    packed = {name: np.array([row[name] for row in data]) for name in data[0]}
    return packed, tft.TFTransformOutput(str(folder / "graph"))


@pytest.fixture(scope="module")
def in_memory(raw, fold):
    preprocessor = Preprocessor(PROBLEM)
    return preprocessor, preprocessor.fit({**raw, FOLD: fold})


def test_both_encode_training_rows_alike(transformed, in_memory):
    packed, _ = transformed
    expected = {name: value.numpy() for name, value in in_memory[1].items()}
    assert set(packed) == set(expected)
    for name in ("ids_ad", "ids_context", "labels", "label_weights", "group"):
        np.testing.assert_array_equal(packed[name], expected[name], err_msg=name)
    np.testing.assert_allclose(packed["numbers_ad"], expected["numbers_ad"], atol=1e-4)
    # Beam's quantiles are approximate: a value near a boundary may fall on its other side.
    assert np.mean(packed["ids_user"] != expected["ids_user"]) < 0.02
    np.testing.assert_allclose(packed["numbers_context"], expected["numbers_context"], atol=0.05)


def test_both_find_the_same_table_sizes(transformed, in_memory):
    assert table_rows(PROBLEM, transformed[1]) == in_memory[0].table_rows()


def test_both_encode_served_rows_alike_and_need_no_labels_or_folds(transformed, in_memory):
    new = rows(50, seed=3)
    new["user"][:5], new["ad"][:5] = "never seen", ""
    features = {name: new[name] for name in PROBLEM.feature_columns()}
    graph = TransformGraph(transformed[1], PROBLEM)
    dense = dense_columns(
        PROBLEM.feature_columns(),
        {
            name: value if isinstance(value, tf.RaggedTensor) else tf.constant(value)
            for name, value in features.items()
        },
    )
    found, expected = graph(dense), in_memory[0](features)
    assert "labels" not in found
    np.testing.assert_array_equal(found["ids_ad"], expected["ids_ad"])
    np.testing.assert_allclose(found["numbers_ad"], expected["numbers_ad"], atol=1e-4)
    np.testing.assert_allclose(found["numbers_context"], expected["numbers_context"], atol=0.05)


def test_a_constant_in_training_leaves_another_served_value_its_size(tmp_path):
    problem = ProblemSpec(features=(numerical("x"),), tasks=(binary("y", label="y"),))
    spec = {name: tf.io.VarLenFeature(tf.float32) for name in ("x", "y")}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    training = [{"x": [0.1], "y": [float(i % 2)]} for i in range(1000)]
    with tft_beam.Context(temp_dir=str(tmp_path)):
        (rows_seen, _), function = (training, metadata) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: encode(problem, inputs, TransformAnalyzers())
        )
        served, _ = (([{"x": [0.2], "y": [0.0]}], metadata), function) | (
            tft_beam.TransformDataset()
        )
    assert abs(rows_seen[0]["numbers_context"][0]) < 1e-5
    assert served[0]["numbers_context"][0] == pytest.approx(0.1, abs=1e-5)
