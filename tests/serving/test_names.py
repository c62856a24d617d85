"""Columns called as users call them: the served signatures have just those names."""

import json

import numpy as np
import pytest
import tensorflow as tf

from components.analyzers import vocabulary_file
from tests.doubles.shop import CONFIG, run, write_shop
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export, to_examples
from tfmtl.serving.signature_names import argument_names, named_inputs

NAMES = ("user id", "价格", "ad/id", "bio.x", "7days", "_x", "x:0", "class", "name", "training")
ROWS = 60


def exported(tmp_path, names, backbone="shared_bottom"):
    rng = np.random.default_rng(1)
    features = tuple(
        categorical(name, side=side) if place % 2 else numerical(name, side=side)
        for place, (name, side) in enumerate(zip(names, ["user", "ad"] * len(names), strict=False))
    )
    problem = ProblemSpec(features=features, tasks=(binary("ctr", label="click"),))
    raw = {
        f.name: rng.choice(["a", "b", "c"], ROWS) if f.kind == "categorical" else rng.random(ROWS)
        for f in features
    }
    preprocessor = Preprocessor(problem)
    preprocessor.fit({**raw, "click": rng.integers(0, 2, ROWS)})
    model = MultiTaskModel.build_from(
        problem, preprocessor.table_rows(), Model(backbone={"name": backbone}, dim=4)
    )
    packed = preprocessor(raw)
    expected = model(packed)["ctr"].numpy()
    path = export(model, preprocessor, str(tmp_path / "1"))
    return problem, raw, expected, tf.saved_model.load(path).signatures


def tensors(signature, raw):
    specs = named_inputs(signature)
    return {name: tf.constant(raw[name], spec.dtype) for name, spec in specs.items()}


def test_every_signature_takes_the_columns_own_names(tmp_path):
    problem, raw, expected, signatures = exported(tmp_path, NAMES)
    assert set(named_inputs(signatures["predict"])) == set(NAMES)
    by_name = signatures["predict"](**tensors(signatures["predict"], raw))["ctr"]
    examples = to_examples(problem, {k: list(v) for k, v in raw.items()})
    by_example = signatures["serving_default"](tf.constant(examples))["ctr"]
    np.testing.assert_allclose(by_name, expected, atol=1e-6)
    np.testing.assert_allclose(by_example, expected, atol=1e-6)


def test_what_tensorflow_serving_reads_has_the_columns_own_names(tmp_path):
    exported(tmp_path, ("ad-id", "用户"))
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "1/saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    inputs = graph.signature_def["predict"].inputs
    assert set(inputs) == {"ad-id", "用户"}
    nodes = {node.name for node in graph.graph_def.node}
    assert all(info.name.split(":")[0] in nodes for info in inputs.values())


def test_towers_take_the_names_of_their_own_side(tmp_path):
    _, raw, _, signatures = exported(tmp_path, ("user id", "ad/id", "价格"), "two_tower")
    assert set(named_inputs(signatures["user_tower"])) == {"user id", "价格"}
    assert set(named_inputs(signatures["ad_tower"])) == {"ad/id"}
    vectors = {
        side: signatures[f"{side}_tower"](**tensors(signatures[f"{side}_tower"], raw))["vector"]
        for side in ("user", "ad")
    }
    ranked = signatures["rank"](user=vectors["user"], ads=vectors["ad"])["ctr"]
    paired = signatures["predict"](**tensors(signatures["predict"], raw))["ctr"]
    np.testing.assert_allclose(ranked, paired, atol=1e-6)


def test_plain_names_stay_and_no_two_arguments_are_one():
    names = argument_names(["user_id", "user id", "column_1_user_id", "self"])
    assert names["user_id"] == "user_id" and names["column_1_user_id"] == "column_1_user_id"
    assert len(set(names.values())) == 4
    assert all(name.isidentifier() and name.isascii() for name in names.values())


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (("user id", "user_id"), "'user id' and 'user_id': TensorFlow reads both as 'user_id'"),
        (("ad/id", "ad.id"), "Rename one of them"),
        (("self",), "Rename the column, as 'self_'"),
        ((" ",), "with a visible character"),
        (("a\nb",), "no line break"),
    ],
)
def test_what_cannot_be_served_is_refused_at_declaration(columns, sentence):
    with pytest.raises(SpecError, match=sentence):
        ProblemSpec(
            features=tuple(categorical(name) for name in columns),
            tasks=(binary("ctr", label="click"),),
        )


@pytest.mark.parametrize("name", ["点击", "7ctr", "_ctr", "a b", "ctr/x", "", "click-rate"])
def test_a_task_that_could_be_no_output_is_refused_at_declaration(name):
    with pytest.raises(SpecError, match="begin with a letter, as 'ctr_feed'"):
        binary(name, label="click")


def test_names_that_differ_give_vocabulary_files_that_differ():
    names = ["用户", "广告", "a b", "a/b", "a_b", "user_id"]
    assert len({vocabulary_file(name) for name in names}) == len(names)
    assert vocabulary_file("user_id") == "user_id"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_odd_names_go_through_the_whole_pipeline_to_a_model_as_good_as_with_plain_ones(tmp_path):
    write_shop(tmp_path)
    plain = run(tmp_path, output="plain")
    renamed = {
        "request_id": "request id",
        "user_id": "用户",
        "ad_id": "广告",
        "price": "pri/ce.x",
        "scene": "scene-1",
        "click": "7click",
        "quality": "self",
    }
    heading, _, rows = (tmp_path / "rows.csv").read_text().partition("\n")
    heading = ",".join(renamed.get(name, name) for name in heading.split(","))
    (tmp_path / "odd.csv").write_text(f"{heading}\n{rows}")
    config = CONFIG
    for before, after in renamed.items():
        config = config.replace(f'="{before}"', f'="{after}"').replace(
            f'("{before}"', f'("{after}"'
        )
    # The task keeps its name: it is an output's.
    config = config.replace('regression("self"', 'regression("quality"')
    (tmp_path / "odd.py").write_text(config)
    odd = run(tmp_path, config="odd.py", data="odd.csv", output="odd")
    assert odd.returncode == 0, odd.stderr

    def auc(done):
        (line,) = [x for x in done.stdout.splitlines() if x.startswith("ctr@imp")]
        return [float(cell) for cell in line.split() if cell.startswith("0.")][0]

    assert auc(odd) == pytest.approx(auc(plain), abs=0.02)
    request = json.loads((tmp_path / "odd/request.json").read_text())
    assert {"用户", "广告", "pri/ce.x", "scene-1"} == set(request["instances"][0])
