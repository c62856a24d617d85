"""What Transform fits and exports reads text and times as the readers and the notebooks do."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from components.analyzers import TransformGraph
from pipeline.transform_module import preprocessing_fn
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import DTYPES

PROBLEM = ProblemSpec(
    features=(
        categorical("x"),
        categorical("h", column="x", encoding="hash", size=1000),
        numerical("ts"),
    ),
    tasks=(binary("ctr", label="click"),),
)
NULLS = ("", "NA", "-")
COUNT = 200


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Fitted on rows of a text file, in which `NA` was missing already."""
    folder = tmp_path_factory.mktemp("transform")
    words = [[], ["a"], ["b"], ["a"]] * (COUNT // 4)
    rows = [
        {"x": word, "ts": [1.7e9 + i * 14400 / COUNT], "click": [float(i % 2)]}
        for i, word in enumerate(words)
    ]
    spec = {n: tf.io.VarLenFeature(DTYPES[c.dtype]) for n, c in PROBLEM.columns().items()}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    experiment = ExperimentConfig(name="t", problem=PROBLEM, split=by_row_number())
    config = {"experiment": experiment.to_json(), "null_values": json.dumps(NULLS)}
    with tft_beam.Context(temp_dir=str(folder / "temp")):
        (packed, _), function = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: preprocessing_fn(inputs, config)
        )
        function | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / "metadata"))
    output = tft.TFTransformOutput(str(folder / "graph"))
    return TransformGraph(output, PROBLEM), np.array([row["numbers_context"] for row in packed])


def test_text_that_meant_missing_where_rows_were_read_is_missing_when_served(graph):
    values = tf.constant(["NA", "-", "", "a", "b", "new"])
    ids = graph[0]({"x": values, "ts": tf.fill([6], 1.7e9)})["ids_context"].numpy()
    assert (ids[:3] == 1).all()
    np.testing.assert_array_equal(ids[3:, 0], [2, 3, 0])
    assert (ids[3:, 1] >= 2).all()


def test_hours_of_epoch_seconds_are_encoded_by_their_spread_and_as_in_memory(graph):
    numbers = graph[1].ravel()
    assert numbers.mean() == pytest.approx(0, abs=1e-3)
    assert numbers.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(numbers).max() == pytest.approx(3**0.5, abs=0.05)
    ts = 1.7e9 + np.arange(COUNT) * 14400 / COUNT
    rows = {"x": ["a"] * COUNT, "ts": ts, "click": np.arange(COUNT) % 2}
    expected = Preprocessor(PROBLEM).fit(rows)["numbers_context"].numpy().ravel()
    np.testing.assert_allclose(numbers, expected, atol=1e-4)
