"""What is pushed: raw features in, the training model's predictions out, in a fresh process."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed, rows
from tfmtl import registry
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
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
from tensorflow_serving.apis import prediction_log_pb2
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


def warmup_requests(path):
    file = path + "/assets.extra/tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


@pytest.mark.parametrize("backbone", ["mmoe", "two_tower"])
def test_warm_up_records_are_requests_of_every_signature_that_the_model_answers(exported, backbone):
    path = exported[backbone][1]
    signatures, sizes = tf.saved_model.load(path).signatures, {}
    for request in warmup_requests(path):
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        name = request.model_spec.signature_name
        outputs = signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        rows = max(len(values) for values in inputs.values())
        assert all(len(values) == rows for values in outputs.values())
        sizes.setdefault(name, set()).add(rows)
    assert set(sizes) == set(signatures) and all(len(s) >= 3 for s in sizes.values())


def test_warm_up_records_hold_no_value_of_the_training_rows(exported):
    text = b"".join(request.SerializeToString() for request in warmup_requests(exported["mmoe"][1]))
    assert b"synthetic-0" in text
    for column in ("user", "ad", "query", "scene"):
        for value in set(rows(640)[column].tolist()):
            assert len(value) < 3 or value.encode() not in text, value


def test_an_unknown_warm_up_is_refused(tmp_path):
    with pytest.raises(SpecError, match="Did you mean 'synthetic'"):
        export(build("mmoe"), PREPROCESSOR, str(tmp_path / "1"), warmup="syntetic")


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
