"""What is pushed: raw features in, the training model's predictions out, in a fresh process."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed, rows
from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import example_spec
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export, to_examples

PREPROCESSOR, DATA = packed()
ROWS = 40

RELOAD = """
import json, sys
import numpy as np
import tensorflow as tf
found = {}
examples = tf.constant([bytes.fromhex(line) for line in open(sys.argv[1]).read().split()])
for path in sys.argv[2:]:
    signature = tf.saved_model.load(path).signatures["serving_default"]
    found[path] = {k: v.numpy().tolist() for k, v in signature(examples).items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def raw():
    columns = rows(ROWS, seed=5)
    columns["user"][0] = "never seen"
    return {name: columns[name] for name in PROBLEM.feature_columns()}


@pytest.fixture(scope="module")
def as_examples(raw):
    lists = {
        k: [list(v) for v in values.to_list()] if isinstance(values, tf.RaggedTensor) else values
        for k, values in raw.items()
    }
    return to_examples(PROBLEM, lists)


def build(name):
    config = experiment(backbone={"name": name, **SMALL[name]}).model
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, config)
    model(next(iter(DATA.train.batches(2))))
    for variable in model.trainable_variables:
        variable.assign(tf.random.normal(variable.shape, stddev=0.3))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    models = {name: build(name) for name in registry.names("backbone")}
    return {
        name: (model, export(model, PREPROCESSOR, str(folder / name)))
        for name, model in models.items()
    }


def test_every_backbone_reloads_in_a_fresh_process_with_the_same_predictions(
    exported, raw, as_examples, tmp_path
):
    (tmp_path / "examples").write_text("\n".join(e.hex() for e in as_examples))
    paths = [path for _, path in exported.values()]
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path / "examples"), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for model, path in exported.values():
        for task, expected in model(PREPROCESSOR(raw)).items():
            np.testing.assert_allclose(found[path][task], expected, atol=1e-5, rtol=1e-5)


def test_raw_named_tensors_give_what_examples_give(exported, raw, as_examples):
    signatures = tf.saved_model.load(exported["mmoe"][1]).signatures
    named = {
        name: values.to_tensor("" if values.dtype == tf.string else np.nan)
        if isinstance(values, tf.RaggedTensor)
        else tf.constant(values)
        for name, values in raw.items()
    }
    one = signatures["predict"](**named)
    other = signatures["serving_default"](tf.constant(as_examples))
    for task in PROBLEM.task_names:
        np.testing.assert_allclose(one[task], other[task], atol=1e-6)


def test_no_label_and_no_context_column_is_asked_for(exported):
    signatures = tf.saved_model.load(exported["mmoe"][1]).signatures
    _, named = signatures["predict"].structured_input_signature
    assert set(named) == set(PROBLEM.feature_columns())
    assert not {"click", "conversion", "quality", "request"} & set(named)
    assert set(signatures["serving_default"].structured_outputs) == set(PROBLEM.task_names)


def test_transform_features_gives_what_the_model_reads_and_no_labels(exported, raw, as_examples):
    signature = tf.saved_model.load(exported["mmoe"][1]).signatures["transform_features"]
    packed_rows = signature(tf.constant(as_examples))
    expected = PREPROCESSOR(raw)
    assert "labels" not in packed_rows
    for name, values in packed_rows.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_an_empty_example_is_a_row_whose_every_value_is_missing(exported):
    signature = tf.saved_model.load(exported["mmoe"][1]).signatures["serving_default"]
    for values in signature(tf.constant([b"", b""])).values():
        assert np.all(np.isfinite(values))


def test_balancer_and_optimizers_stay_behind(exported):
    names = [
        name
        for _, path in exported.values()
        for name, _ in tf.train.list_variables(path + "/variables/variables")
    ]
    assert not [n for n in names if "optimizer" in n.lower() or "balancer" in n.lower()]


def test_warm_up_records_are_requests_the_model_answers(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported["mmoe"][1]
    file = path + "/assets.extra/tf_serving_warmup_requests"
    (record,) = tf.data.TFRecordDataset(file).as_numpy_iterator()
    log = prediction_log_pb2.PredictionLog.FromString(record)
    inputs = tf.make_ndarray(log.predict_log.request.inputs["examples"])
    signature = tf.saved_model.load(path).signatures[
        log.predict_log.request.model_spec.signature_name
    ]
    assert len(signature(tf.constant(inputs))["ctr"]) == len(inputs)


def test_examples_of_gaps_and_of_floats_are_encoded_as_the_frame_is():
    problem = ProblemSpec(
        features=(categorical("id"), categorical("t", max_values=3, weights="w")),
        tasks=(binary("y", label="y"),),
    )
    frame = pd.DataFrame(
        {
            "id": [7, None, 8],
            "t": [["a", None, "b"], None, ["b"]],
            "w": [[1.0, 2.0, 3.0], None, [4.0]],
            "y": [0.0, 1.0, 1.0],
        }
    )
    preprocessor = Preprocessor(problem)
    expected = preprocessor.fit(frame)
    columns = problem.feature_columns()
    parsed = tf.io.parse_example(
        to_examples(problem, {name: frame[name].tolist() for name in columns}),
        example_spec(columns),
    )
    for name, found in preprocessor(parsed).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=name)
