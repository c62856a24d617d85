"""The server over the wire: what it answers, what it refuses, and that it lives on.

Where `tensorflow_model_server` is on PATH, the tests of answers run against it too.
"""

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.doubles.served import PREPROCESSOR, exported, random_model, request_rows
from tests.doubles.worlds import PROBLEM, rows
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import DataError, SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving import Client, ServingError
from tfmtl.serving.export import export, to_examples
from tfmtl.serving.server.command import main
from tfmtl.serving.server.options import Limits, Options
from tfmtl.serving.server.serve import running

ROWS = 12
LIMITS = Limits(message_bytes=16 << 20, value_bytes=1 << 20, rows=5000)
BINARY = shutil.which("tensorflow_model_server")


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving") / "ads"
    exported(str(folder / "3"))
    return folder


@pytest.fixture(scope="module")
def server(versions):
    options = Options(grpc_port=0, rest_port=0, limits=LIMITS)
    with running(versions, options=options) as started:
        yield started


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(
    scope="module",
    params=[
        "ours",
        pytest.param(
            "theirs",
            marks=pytest.mark.skipif(not BINARY, reason="tensorflow_model_server is not on PATH"),
        ),
    ],
)
def addresses(request):
    if request.param == "ours":
        started = request.getfixturevalue("server")
        yield {"grpc": started.grpc_address, "rest": started.rest_url}
        return
    ports = free_port(), free_port()
    folder = request.getfixturevalue("versions")
    command = [BINARY, f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    command += ["--model_name=ads", f"--model_base_path={folder}"]
    process = subprocess.Popen(command)
    yield {"grpc": f"localhost:{ports[0]}", "rest": f"http://localhost:{ports[1]}"}
    process.terminate()
    process.wait()


@pytest.fixture(params=["grpc", "rest"])
def client(request, addresses):
    with Client(addresses[request.param], model="ads", attempts=5, timeout=20) as opened:
        yield opened


def expected(count=ROWS, seed=5):
    outputs = random_model()(PREPROCESSOR(rows(count, seed=seed)))
    return {task: values.numpy() for task, values in outputs.items()}


def test_the_wire_gives_what_the_model_gives(client):
    frame = client.predict(request_rows(ROWS))
    assert set(frame) == set(PROBLEM.task_names)
    for task, values in expected().items():
        np.testing.assert_allclose(frame[task], values, rtol=1e-5, atol=1e-6)


def test_dicts_frames_and_arrow_tables_get_the_same_answer(client):
    dicts = request_rows(ROWS)
    one = client.predict(dicts)
    two = client.predict(pd.DataFrame(dicts, index=np.arange(100, 100 + ROWS)))
    three = client.predict(pa.Table.from_pylist(dicts))
    assert two.index.tolist() == list(range(100, 100 + ROWS))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_rows_of_several_requests_come_back_in_their_order(addresses):
    dicts = request_rows(ROWS)
    with Client(addresses["grpc"], model="ads", batch_rows=5) as few_rows:
        frame = few_rows.predict(dicts)
    np.testing.assert_allclose(frame["ctr"], expected()["ctr"], rtol=1e-5, atol=1e-6)


def test_serialised_examples_get_the_same_answer(client):
    dicts = request_rows(ROWS)
    columns = {name: [row[name] for row in dicts] for name in dicts[0]}
    examples = np.array(to_examples(PROBLEM, columns), object)
    answer = client.call("serving_default", {"examples": examples})
    np.testing.assert_allclose(answer["ctr"], expected()["ctr"], rtol=1e-5, atol=1e-6)


def test_a_missing_value_is_none_nan_or_an_absent_key(client):
    row = request_rows(1)[0]
    absent = {name: value for name, value in row.items() if name not in ("age", "user")}
    rows_ = [
        {**row, "age": None, "user": None},
        {**row, "age": float("nan"), "user": ""},
        absent,
        row,
    ]
    ctr = client.predict(rows_)["ctr"]
    assert ctr[0] == pytest.approx(ctr[1]) == pytest.approx(ctr[2])
    assert ctr[3] != pytest.approx(ctr[0], abs=1e-7)


def test_an_unknown_category_and_nan_get_an_answer(client):
    row = {**request_rows(1)[0], "user": "nobody", "price": float("nan")}
    assert np.isfinite(client.predict([row]).to_numpy()).all()


def test_no_rows_are_an_empty_frame(client):
    assert client.predict(request_rows(1)[:0] or pd.DataFrame(request_rows(1))[:0]).empty


def test_the_best_twenty_of_500_ads_are_those_of_the_largest_total_value(addresses):
    value = TotalValue(actions={"cpc": "click", "cpm": "impression"})
    first = request_rows(1)[0]
    user = {name: first[name] for name in ("user", "age", "slot", "query", "scene", "hour")}
    ads = [
        {name: v for name, v in row.items() if name not in user}
        for row in request_rows(500, seed=8)
    ]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(ads).assign(
        bid=rng.lognormal(size=500), objective=rng.choice(["cpc", "cpm"], 500)
    )
    with Client(addresses["grpc"], model="ads", value=value) as client:
        best = client.rank(user, frame, top=20)
        all_ads = client.predict(frame.assign(**{k: [v] * 500 for k, v in user.items()}))
    total = all_ads["total_value"]
    order = np.argsort(-total.to_numpy(), kind="stable")[:20]
    assert best.index.tolist() == order.tolist()
    np.testing.assert_allclose(best["total_value"], total.to_numpy()[order])
    cpm = best[best["objective"] == "cpm"]
    np.testing.assert_allclose(cpm["total_value"], cpm["bid"] + cpm["cqs"], rtol=1e-5)


def test_the_client_names_the_column_that_rows_lack(client):
    renamed = [
        {("usr" if k == "user" else k): v for k, v in row.items()} for row in request_rows(2)
    ]
    with pytest.raises(DataError, match="lack the column 'user'.*Did you mean 'usr'"):
        client.predict(renamed)


def test_the_client_names_the_column_and_row_of_a_wrong_value(client):
    dicts = request_rows(3)
    dicts[1]["slot"] = "two"
    with pytest.raises(DataError, match="'slot', row 2: 'two' is no int64"):
        client.predict(dicts)


def test_the_row_of_a_wrong_value_counts_from_the_first_request(addresses):
    dicts = request_rows(8)
    dicts[6]["age"] = "old"
    with Client(addresses["grpc"], model="ads", batch_rows=3) as few_rows:
        with pytest.raises(DataError, match="'age', row 7: 'old' is no float32"):
            few_rows.predict(dicts)


def test_the_client_names_the_signatures_there_are(client):
    with pytest.raises(SpecError, match="no signature 'predct'.*Did you mean 'predict'"):
        client.predict(request_rows(1), signature="predct")


def test_status_and_signatures(client):
    assert client.status()[3] == "AVAILABLE"
    shapes = client.signatures()
    assert {"predict", "serving_default", "transform_features"} <= set(shapes)
    assert shapes["predict"].inputs["tags"].is_list
    assert shapes["predict"].inputs["age"].dtype == "float32"


def test_a_server_that_is_not_there_is_unavailable_within_the_deadline():
    for address in (f"localhost:{free_port()}", f"http://localhost:{free_port()}"):
        start = time.monotonic()
        with Client(address, model="ads", timeout=1.0) as nobody:
            with pytest.raises(ServingError) as raised:
                nobody.status()
        assert raised.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert time.monotonic() - start < 3


def test_an_address_that_is_none_is_refused():
    with pytest.raises(SpecError, match="'localhost:8500' for gRPC"):
        Client("localhost", model="ads")


# What follows is asked without the client, which would refuse most of it itself.


def tensors(count=2):
    """Valid inputs of `predict`, as arrays."""
    dicts = request_rows(count)
    frame = {name: [row[name] for row in dicts] for name in dicts[0]}
    width = max(map(len, frame["tags"])) or 1
    frame["tags"] = [tags + [""] * (width - len(tags)) for tags in frame["tags"]]
    frame["tag_weights"] = [w + [float("nan")] * (width - len(w)) for w in frame["tag_weights"]]
    types = {"slot": np.int64, "age": np.float32, "price": np.float32, "hour": np.float32}
    types["tag_weights"] = np.float32
    return {name: np.array(values, types.get(name, object)) for name, values in frame.items()}


def ask_grpc(server, inputs, signature="predict", name="ads", version=None, timeout=20):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for key, values in inputs.items():
        is_proto = hasattr(values, "tensor_shape")
        request.inputs[key].CopyFrom(values if is_proto else tf.make_tensor_proto(values))
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_address, options=options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict(request, timeout=timeout)


def refusal_grpc(server, *args, **kwargs):
    with pytest.raises(grpc.RpcError) as raised:
        ask_grpc(server, *args, **kwargs)
    return raised.value.code().name, raised.value.details()


def ask_rest(server, body, path="/v1/models/ads:predict"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            server.rest_url + path, data if body is not None else None
        ) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def bad_tensor():
    proto = tf.make_tensor_proto(np.float32([1, 2]))
    proto.tensor_content = b"\0\0\0"
    return proto


def huge_tensor():
    proto = tf.make_tensor_proto(np.float32([1.0]))
    proto.tensor_shape.dim[0].size = 1 << 40
    return proto


GRPC_REFUSALS = {
    "a missing feature": ({"user": None}, {}, "INVALID_ARGUMENT", "'user'"),
    "an unknown input": ({"usr": np.array([b"u"] * 2)}, {}, "INVALID_ARGUMENT", "'usr'"),
    "a text for a number": ({"age": np.array([b"x", b"y"])}, {}, "INVALID_ARGUMENT", "'age'"),
    "a double for a float": ({"age": np.array([1.0, 2.0])}, {}, "INVALID_ARGUMENT", "'age'"),
    "a list for a scalar": ({"age": np.float32([[1], [2]])}, {}, "INVALID_ARGUMENT", "'age'"),
    "a scalar for a list": ({"tags": np.array([b"a", b"b"])}, {}, "INVALID_ARGUMENT", "'tags'"),
    "too few rows": ({"age": np.float32([1.0])}, {}, "INVALID_ARGUMENT", "'age'"),
    "a tensor that is none": ({"age": bad_tensor()}, {}, "INVALID_ARGUMENT", "'age'"),
    "a tensor that claims a terabyte": ({"age": huge_tensor()}, {}, "RESOURCE_EXHAUSTED", "'age'"),
    "a text of 10,000,000 bytes": (
        {"user": np.array([b"u", b"x" * 10_000_000], object)},
        {},
        "INVALID_ARGUMENT",
        "'user', row 2: a text of 10,000,000 bytes",
    ),
    "an unknown signature": ({}, {"signature": "rnak"}, "INVALID_ARGUMENT", "'rnak'"),
    "an unknown model": ({}, {"name": "adds"}, "NOT_FOUND", "'adds'"),
    "a version that is not served": ({}, {"version": 9}, "NOT_FOUND", "version 9"),
}


@pytest.mark.parametrize("what", GRPC_REFUSALS)
def test_grpc_refuses_with_the_inputs_name_and_lives_on(server, what):
    changes, options, code, message = GRPC_REFUSALS[what]
    inputs = {k: v for k, v in (tensors() | changes).items() if v is not None}
    got = refusal_grpc(server, inputs, **options)
    assert got[0] == code and message in got[1], got
    assert len(ask_grpc(server, tensors()).outputs["ctr"].float_val or [1]) > 0


def test_an_empty_batch_is_refused_with_the_inputs_name(server):
    empty = {name: values[:0] for name, values in tensors().items()}
    code, message = refusal_grpc(server, empty)
    assert code == "INVALID_ARGUMENT" and "0 rows" in message and "'ad'" in message
    status, message = ask_rest(server, {"signature_name": "predict", "instances": []})
    assert status == 400 and "'age'" in message and "0 rows" in message


def test_a_malformed_example_is_refused_and_names_the_input(server):
    code, message = refusal_grpc(
        server, {"examples": np.array([b"\xff\xff no proto"], object)}, "serving_default"
    )
    assert code == "INVALID_ARGUMENT" and "'examples', row 1" in message


def test_a_malformed_example_in_a_batch_spoils_no_other_request(server):
    good = {"examples": np.array([b""], object)}
    bad = {"examples": np.array([b"\xff no proto"], object)}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = [
            pool.submit(ask_grpc, server, bad if i % 4 == 0 else good, "serving_default")
            for i in range(64)
        ]
    failed = [i for i, answer in enumerate(answers) if answer.exception()]
    assert failed == list(range(0, 64, 4))


def test_a_message_above_the_limit_is_refused(server):
    code, message = refusal_grpc(server, {"user": np.array([b"x" * (20 << 20)], object)})
    assert code == "RESOURCE_EXHAUSTED" and "larger than max" in message
    status, _ = ask_rest(server, b"[" + b" " * (20 << 20))
    assert status == 413


def instances(count=2):
    return [
        {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in zip(cols, row, strict=True)
        }
        for cols, row in [
            (list(tensors(count)), values) for values in zip(*tensors(count).values(), strict=True)
        ]
    ]


def plain(value):
    return value.item() if isinstance(value, np.generic) else value


def rest_rows(count=2):
    return [{name: plain(value) for name, value in row.items()} for row in instances(count)]


REST_REFUSALS = {
    "a missing feature": (lambda row: {k: v for k, v in row.items() if k != "user"}, "'user'"),
    "an unknown input": (lambda row: {**row, "usr": "x"}, "'usr'"),
    "a text for a number": (lambda row: {**row, "age": "forty"}, "'age', row 2: 'forty'"),
    "a number for a text": (lambda row: {**row, "user": 7}, "'user', row 2: 7"),
    "a fraction for a whole number": (lambda row: {**row, "slot": 1.5}, "'slot', row 2: 1.5"),
    "true for a number": (lambda row: {**row, "age": True}, "'age', row 2: True"),
    "null": (lambda row: {**row, "price": None}, "'price', row 2: null"),
    "a list for a scalar": (lambda row: {**row, "age": [1.0]}, "'age', row 2: [1.0]"),
    "text with bars for a list": (lambda row: {**row, "tags": "t1|t2"}, "'tags', row 2: 't1|t2'"),
    "lists of several lengths": (lambda row: {**row, "tags": ["a"] * 9}, "'tags', row 2"),
    "broken base64": (lambda row: {**row, "user": {"b64": "?"}}, "'user', row 2: b64"),
    "a row that is none": (lambda row: [1, 2], "row 2"),
}


@pytest.mark.parametrize("what", REST_REFUSALS)
def test_rest_refuses_with_the_inputs_name_and_the_row_and_lives_on(server, what):
    change, message = REST_REFUSALS[what]
    first, second = rest_rows()
    body = {"signature_name": "predict", "instances": [first, change(second)]}
    status, got = ask_rest(server, body)
    assert status == 400 and message in got, got
    status, answer = ask_rest(server, {"signature_name": "predict", "instances": [first, second]})
    assert status == 200 and len(answer["predictions"]) == 2


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{nonsense", "/v1/models/ads:predict", 400),
        ([1], "/v1/models/ads:predict", 400),
        ({"rows": []}, "/v1/models/ads:predict", 400),
        ({"instances": [{}], "signature_name": "none"}, "/v1/models/ads:predict", 400),
        ({"instances": [{}]}, "/v1/models/adds:predict", 404),
        ({"instances": [{}]}, "/v1/models/ads/versions/9:predict", 404),
        ({"instances": [{}]}, "/v1/models/ads/versions/x:predict", 400),
        (None, "/v1/models/ads:predict", 405),
        (None, "/v2/models", 404),
        (None, "/v1/models/adds", 404),
        (None, "/v1/models/ads/versions/9", 404),
    ],
)
def test_rest_answers_a_wrong_request_with_a_status_and_an_error(server, body, path, status):
    got, error = ask_rest(server, body, path)
    assert got == status and isinstance(error, str) and error


def test_rest_gives_rows_for_instances_and_columns_for_inputs(server):
    rows_ = rest_rows(3)
    _, by_row = ask_rest(server, {"signature_name": "predict", "instances": rows_})
    columns = {name: [row[name] for row in rows_] for name in rows_[0]}
    _, by_column = ask_rest(server, {"signature_name": "predict", "inputs": columns})
    ctr = [row["ctr"] for row in by_row["predictions"]]
    assert ctr == by_column["outputs"]["ctr"] and len(ctr) == 3


def test_health_status_and_counts_are_given(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tensorflow.serving.PredictionService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "ads"
        (state,) = models.GetModelStatus(request).model_version_status
        assert (state.version, state.state) == (
            3,
            get_model_status_pb2.ModelVersionStatus.AVAILABLE,
        )
    with urllib.request.urlopen(server.rest_url + "/metrics") as response:
        text = response.read().decode()
    assert "tfmtl_model_version 3.0" in text
    assert "tfmtl_requests_total{" in text


def test_an_invented_signature_makes_no_time_series(server):
    refusal_grpc(server, {}, signature="invented_by_a_sender")
    with urllib.request.urlopen(server.rest_url + "/metrics") as response:
        assert "invented_by_a_sender" not in response.read().decode()


def test_a_deadline_that_has_passed_is_told(server):
    code, _ = refusal_grpc(server, tensors(), timeout=1e-4)
    assert code == "DEADLINE_EXCEEDED"


def test_the_servers_own_deadline_is_told(versions):
    options = Options(grpc_port=0, rest_port=0, limits=Limits(seconds=0.001))
    with running(versions, options=options) as slow:
        body = {"signature_name": "predict", "instances": rest_rows(2) * 400}
        status, message = ask_rest(slow, body)
    assert status == 504 and "longer than 0.001 s" in message


def test_requests_that_wait_are_computed_together(server):
    with Client(server.grpc_address, model="ads", timeout=60) as client:
        dicts = request_rows(ROWS)
        client.predict(dicts)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            frames = list(pool.map(lambda _: client.predict(dicts), range(200)))
    for frame in frames:
        np.testing.assert_allclose(frame["ctr"], expected()["ctr"], rtol=1e-5, atol=1e-6)
    with urllib.request.urlopen(server.rest_url + "/metrics") as response:
        text = response.read().decode()
    count, total = (
        float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])
        for name in ("tfmtl_batch_requests_count", "tfmtl_batch_requests_sum")
    )
    assert total > count


def test_a_new_version_is_picked_up_while_requests_run_and_none_fails(tmp_path):
    folder = tmp_path / "ads"
    exported(str(folder / "1"), seed=0)
    options = Options(grpc_port=0, rest_port=0, poll_seconds=0.05)
    dicts = request_rows(ROWS)
    answers = []
    with running(folder, options=options) as server:
        with Client(server.grpc_address, model="ads", timeout=60, attempts=1) as client:
            before = client.predict(dicts)["ctr"]
            done = False

            def ask():
                while not done:
                    answers.append(client.predict(dicts)["ctr"].to_numpy())

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                asking = [pool.submit(ask) for _ in range(4)]
                # As Pusher does: beside the versions first, then renamed.
                exported(str(folder / ".pushing"), seed=1)
                os.rename(folder / ".pushing", folder / "2")
                deadline = time.monotonic() + 60
                while client.status().get(2) != "AVAILABLE" and time.monotonic() < deadline:
                    time.sleep(0.05)
                time.sleep(0.2)
                done = True
            for future in asking:
                future.result()
            after = client.predict(dicts)["ctr"]
            assert client.status() == {2: "AVAILABLE", 1: "END"}
    assert np.abs(before - after).max() > 1e-3
    for answer in answers:
        # One version's answer, whole.
        near = [np.allclose(answer, version, atol=1e-5) for version in (before, after)]
        assert any(near)
    np.testing.assert_allclose(answers[-1], after, atol=1e-5)


def test_a_version_that_cannot_be_loaded_is_told_and_the_old_one_answers(tmp_path):
    folder = tmp_path / "ads"
    exported(str(folder / "1"))
    options = Options(grpc_port=0, rest_port=0, poll_seconds=0.05)
    with running(folder, options=options) as server:
        (folder / "2").mkdir()
        (folder / "2" / "saved_model.pb").write_bytes(b"no model")
        with Client(server.rest_url, model="ads") as client:
            deadline = time.monotonic() + 30
            while 2 not in client.status() and time.monotonic() < deadline:
                time.sleep(0.05)
            deadline = time.monotonic() + 30
            while client.status()[2] != "END" and time.monotonic() < deadline:
                time.sleep(0.05)
            assert client.status() == {2: "END", 1: "AVAILABLE"}
            assert len(client.predict(request_rows(2))) == 2
            _, status = ask_rest(server, None, "/v1/models/ads")
    failed = status["model_version_status"][0]
    assert failed["version"] == "2" and failed["status"]["error_message"]


def test_columns_of_any_name_are_served(tmp_path):
    names = ("user id", "价格", "ad/id", "bio.x", "class")
    problem = ProblemSpec(
        features=tuple(categorical(name) for name in names), tasks=(binary("y", label="y"),)
    )
    values = {name: [f"{name}{i % 3}" for i in range(30)] for name in names}
    frame = pd.DataFrame({**values, "y": np.float32(np.arange(30) % 2)})
    preprocessor = Preprocessor(problem)
    packed = preprocessor.fit(frame)
    model = MultiTaskModel.build_from(problem, preprocessor.table_rows(), Model(dim=4))
    model({k: v for k, v in packed.items()})
    path = export(model, preprocessor, str(tmp_path / "shop" / "1"))
    with running(path) as server:
        assert server.name == "shop"
        for address in (server.grpc_address, server.rest_url):
            with Client(address, model="shop") as client:
                answer = client.predict(frame.drop(columns="y"))
            np.testing.assert_allclose(answer["y"], model(preprocessor(frame))["y"], atol=1e-6)


def test_the_command_serves_and_ends_in_order_when_it_is_told(versions):
    command = [sys.executable, "-m", "tfmtl", "serve", str(versions)]
    command += ["--grpc-port", "0", "--rest-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(5)]
    try:
        address = lines[1].split()[1]
        assert address.startswith("127.0.0.1:")
        assert "TensorFlow Serving" in lines[4]
        with Client(address, model="ads", timeout=30) as client:
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers = [pool.submit(client.predict, request_rows(200)) for _ in range(8)]
                time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                told = [a.exception() for a in answers]
        assert all(e is None or e.code in ("UNAVAILABLE", "CANCELLED") for e in told), told
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_the_command_names_a_folder_that_holds_no_model(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert main([str(tmp_path)]) == 1
    nowhere, empty = capsys.readouterr().err.splitlines()
    assert nowhere.startswith("error: ") and "nowhere is no folder" in nowhere
    assert empty.startswith("error: ") and "holds no SavedModel" in empty


def test_the_command_lists_its_subcommands_without_loading_tensorflow():
    code = "import sys, tfmtl.command as c; c.main(['--help']); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serve" in done.stdout and done.stdout.splitlines()[-1] == "False"
