"""What an early stage is served by: each tower from its own columns, and a ranking of vectors."""

import filecmp
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from components.analyzers import TransformAnalyzers, TransformGraph
from tests.doubles.worlds import PROBLEM as ADS
from tests.doubles.worlds import SMALL, rows
from tfmtl.declare.experiment import Model
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec, binary, regression
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import SpecError
from tfmtl.features.encode import encode
from tfmtl.features.fit import Preprocessor
from tfmtl.features.raw import DTYPES
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import ServingModel, export
from tfmtl.serving.towers import tower_signatures

FEATURES = ("user", "ad", "slot", "tags", "age", "price", "ad_target")
PROBLEM = ProblemSpec(
    features=tuple(f for f in ADS.features if f.name in FEATURES),
    tasks=(
        binary("ctr", label="click"),
        regression("cqs", label="quality"),
        binary("teacher", label="final_pctr", soft=True, served=False),
    ),
    request_id="request",
)
VALUE = TotalValue(
    actions={
        "cpc": "click",
        "post_click": "click_conversion",
        "view": "view_conversion",
        "cpm": "impression",
    },
    quality={"name": "piecewise", "points": ((-2.0, -1.0), (5.0, 0.5), (9.0, 3.0))},
)
ROWS = 24
OBJECTIVES = np.array(list(VALUE.actions) * (ROWS // 4))

FRESH = """
import json, sys
import tensorflow as tf
given = json.load(open(sys.argv[2]))
signatures = tf.saved_model.load(sys.argv[1]).signatures
def ask(name, inputs):
    specs = signatures[name].structured_input_signature[1]
    return signatures[name](**{k: tf.constant(v, specs[k].dtype) for k, v in inputs.items()})
user = ask("user_tower", given["user"])["vector"]
ads = ask("ad_tower", given["ad"])["vector"]
found = signatures["rank"](user=user, ads=ads, **{
    k: tf.constant(v, signatures["rank"].structured_input_signature[1][k].dtype)
    for k, v in given["auction"].items()
})
assert "tfmtl" not in sys.modules
print(json.dumps({k: v.numpy().tolist() for k, v in found.items()}))
"""


def training_rows(count, seed=0):
    columns = rows(count, seed)
    return {**columns, "final_pctr": 0.2 + 0.6 * columns["click"]}


@pytest.fixture(scope="module")
def preprocessor():
    fitted = Preprocessor(PROBLEM)
    fitted.fit(training_rows(400))
    return fitted


def build(preprocessor, name="two_tower", tower_units=(8,), **changes):
    model = MultiTaskModel.build_from(
        PROBLEM,
        preprocessor.table_rows(),
        Model(backbone={"name": name, **SMALL[name], **changes}, dim=8, tower_units=tower_units),
    )
    model(preprocessor(raw_rows()))
    for variable in model.trainable_variables:
        variable.assign(tf.random.stateless_normal(variable.shape, [1, variable.shape.rank]) * 0.3)
    return model


def raw_rows():
    columns = rows(ROWS, seed=5)
    return {name: columns[name] for name in PROBLEM.feature_columns()}


@pytest.fixture(scope="module")
def model(preprocessor):
    return build(preprocessor)


@pytest.fixture(scope="module")
def path(model, preprocessor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers") / "model"
    return export(model, preprocessor, str(folder), value=VALUE)


@pytest.fixture(scope="module")
def signatures(path):
    return tf.saved_model.load(path).signatures


def dense(values):
    if isinstance(values, tf.RaggedTensor):
        return values.to_tensor("" if values.dtype == tf.string else np.nan)
    return tf.constant(values)


def own_columns(signature):
    return {spec.name for spec in tf.nest.flatten(signature.structured_input_signature)}


def ask(signature, columns):
    return signature(**{name: dense(columns[name]) for name in own_columns(signature)})


def auction():
    rng = np.random.default_rng(2)
    return {
        "bid": rng.lognormal(size=ROWS).astype(np.float32),
        "objective": OBJECTIVES,
        "rate": rng.random(ROWS).astype(np.float32),
    }


def rank(signatures, user, ads, **changes):
    inputs = {name: tf.constant(v) for name, v in {**auction(), **changes}.items()}
    found = signatures["rank"](user=tf.constant(user), ads=tf.constant(ads), **inputs)
    return {name: value.numpy() for name, value in found.items()}


def vectors(signatures, columns=None):
    columns = columns or raw_rows()
    return tuple(ask(signatures[f"{t}_tower"], columns)["vector"].numpy() for t in ("user", "ad"))


def test_each_tower_has_its_own_columns_as_inputs_and_no_other(signatures):
    of = {
        side: {c.name for f in PROBLEM.features if f.side == side for c in f.columns()}
        for side in ("user", "ad", "context")
    }
    assert own_columns(signatures["ad_tower"]) == of["ad"]
    assert own_columns(signatures["user_tower"]) == of["user"] | of["context"]
    assert not of["ad"] & (of["user"] | of["context"])


def test_rank_on_the_towers_vectors_is_predict_on_joined_rows(signatures):
    ranked = rank(signatures, *vectors(signatures))
    predicted = ask(signatures["predict"], raw_rows())
    assert set(predicted) == {"ctr", "cqs"} and set(ranked) == {"ctr", "cqs", "total_value"}
    for task in predicted:
        np.testing.assert_allclose(ranked[task], predicted[task], atol=1e-6, rtol=1e-6)
    assert np.ptp(predicted["ctr"]) > 0.01


def test_so_it_is_with_an_interaction_that_an_index_can_serve(preprocessor):
    model = build(preprocessor, tower_units=None, interaction="dot")
    signatures = tower_signatures(model, preprocessor, VALUE)
    ranked = rank(signatures, *vectors(signatures))
    for task, predicted in model.predict_served(preprocessor(raw_rows())).items():
        np.testing.assert_allclose(ranked[task], predicted, atol=1e-6, rtol=1e-6)


def test_total_value_is_the_one_formula_s(signatures):
    found = rank(signatures, *vectors(signatures))
    given = auction()
    expected = VALUE(pctr=found["ctr"], cqs=found["cqs"], **given)
    np.testing.assert_allclose(found["total_value"], expected, rtol=1e-5, atol=1e-6)


def test_a_rate_that_no_action_needs_may_be_nan(signatures):
    user, ads = vectors(signatures)
    rate = np.where(np.isin(OBJECTIVES, ["post_click", "view"]), 0.5, np.nan).astype(np.float32)
    found = rank(signatures, user, ads, rate=rate)
    assert np.isfinite(found["total_value"]).all()


def test_one_user_row_is_that_row_repeated_for_every_ad(signatures):
    user, ads = vectors(signatures)
    one = rank(signatures, user[3:4], ads)
    repeated = rank(signatures, np.repeat(user[3:4], ROWS, axis=0), ads)
    for name in one:
        np.testing.assert_allclose(one[name], repeated[name], rtol=1e-6, atol=1e-6)
    assert np.ptp(one["ctr"]) > 1e-3


def test_permuting_ads_permutes_total_values(signatures):
    user, ads = vectors(signatures)
    order = np.random.default_rng(0).permutation(ROWS)
    plain = rank(signatures, user[:1], ads)
    moved = rank(signatures, user[:1], ads[order], **{k: v[order] for k, v in auction().items()})
    for name in plain:
        np.testing.assert_allclose(moved[name], plain[name][order], rtol=1e-5, atol=1e-6)


def test_an_ad_s_vector_does_not_depend_on_the_batch_it_came_in(signatures):
    columns = raw_rows()
    alone = vectors(signatures, {name: values[4:5] for name, values in columns.items()})
    for one, every in zip(alone, vectors(signatures), strict=True):
        np.testing.assert_allclose(one[0], every[4], rtol=1e-5, atol=1e-6)


def test_an_unknown_objective_fails_the_request_and_is_named(signatures):
    user, ads = vectors(signatures)
    objective = OBJECTIVES.astype(object)
    objective[[2, 7]] = "cost_per_moon"
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"cost_per_moon is none of cpc, .*2 row"
    ):
        rank(signatures, user[:1], ads, objective=objective)


def test_two_users_for_many_ads_are_refused_in_words(signatures):
    user, ads = vectors(signatures)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"user has 2 rows for {ROWS} ads"):
        rank(signatures, user[:2], ads)


def test_without_a_total_value_rank_takes_vectors_and_gives_predictions(
    model, preprocessor, signatures
):
    plain = tower_signatures(model, preprocessor)["rank"]
    assert own_columns(plain) == {"user", "ads"}
    user, ads = vectors(signatures)
    found = plain(user=tf.constant(user), ads=tf.constant(ads))
    expected = rank(signatures, user, ads)
    assert set(found) == {"ctr", "cqs"}
    for task in found:
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-6)


def test_a_value_of_what_is_not_served_is_refused(model, preprocessor, tmp_path):
    value = TotalValue(actions={"cpc": "click"}, ctr="teacher")
    with pytest.raises(SpecError, match="'teacher' is no served binary task"):
        export(model, preprocessor, str(tmp_path / "m"), value=value)


def test_a_backbone_without_towers_has_no_further_signatures(preprocessor):
    assert tower_signatures(build(preprocessor, "mmoe"), preprocessor, VALUE) == {}


def test_the_teacher_is_gone_and_no_label_is_asked_for(path, signatures):
    names = [name for name, _ in tf.train.list_variables(path + "/variables/variables")]
    assert names and not [name for name in names if "teacher" in name]
    with open(path + "/saved_model.pb", "rb") as file:
        saved = file.read()
    assert b"tower_ctr" in saved and b"teacher" not in saved
    labels = {"click", "quality", "final_pctr", "request"}
    for signature in signatures.values():
        assert not labels & own_columns(signature)
        assert "teacher" not in signature.structured_outputs


def test_other_weights_of_the_teacher_change_nothing_that_is_exported(
    model, preprocessor, path, tmp_path
):
    before = [v.numpy() for v in model.heads.towers["teacher"].variables]
    packed = preprocessor(raw_rows())
    taught = model(packed)["teacher"].numpy()
    try:
        for part in (model.heads.towers["teacher"], model.heads.logits["teacher"]):
            for variable in part.variables:
                variable.assign(variable + 1.0)
        assert not np.allclose(model(packed)["teacher"], taught)
        other = export(model, preprocessor, str(tmp_path / "other"), value=VALUE)
    finally:
        for variable, value in zip(model.heads.towers["teacher"].variables, before, strict=True):
            variable.assign(value)
    data = "/variables/variables.data-00000-of-00001"
    assert filecmp.cmp(path + data, other + data, shallow=False)
    one, two = (tf.saved_model.load(p).signatures for p in (path, other))
    found, expected = rank(two, *vectors(two)), rank(one, *vectors(one))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_fresh_process_without_tfmtl_gives_the_same(path, signatures, tmp_path):
    columns = {name: dense(values).numpy() for name, values in raw_rows().items()}

    def plain(values):
        return [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]

    def listed(name):
        values = columns[name]
        return [plain(row) for row in values] if values.ndim == 2 else plain(values)

    given = {
        t: {name: listed(name) for name in own_columns(signatures[f"{t}_tower"])}
        for t in ("user", "ad")
    }
    given["auction"] = {name: values.tolist() for name, values in auction().items()}
    (tmp_path / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, path, str(tmp_path / "given.json")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for name, expected in rank(signatures, *vectors(signatures)).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_pipeline_s_transform_serves_each_tower_from_its_own_columns(model, tmp_path):
    spec = {n: tf.io.VarLenFeature(DTYPES[c.dtype]) for n, c in PROBLEM.columns().items()}
    spec[FOLD] = tf.io.VarLenFeature(tf.int64)
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    with tft_beam.Context(temp_dir=str(tmp_path / "temp")):
        function = (instances(training_rows(400)), metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: encode(PROBLEM, inputs, TransformAnalyzers())
        )
        function | tft_beam.WriteTransformFn(str(tmp_path / "graph"))
    metadata_io.write_metadata(metadata, str(tmp_path / "graph" / "metadata"))
    graph = TransformGraph(tft.TFTransformOutput(str(tmp_path / "graph")), PROBLEM)
    serving = ServingModel(model, graph, VALUE)
    path = str(tmp_path / "model")
    tf.saved_model.save(serving, path, signatures=serving.signatures())
    signatures = tf.saved_model.load(path).signatures
    assert own_columns(signatures["ad_tower"]) == {"ad", "tags", "tag_weights", "price"}
    ranked = rank(signatures, *vectors(signatures))
    for task, predicted in ask(signatures["predict"], raw_rows()).items():
        np.testing.assert_allclose(ranked[task], predicted, atol=1e-6, rtol=1e-6)
    assert np.ptp(ranked["ctr"]) > 0.01


def instances(columns):
    """Rows as TensorFlow Transform takes them: lists, empty where a value is missing."""
    lists = {FOLD: [[i // 4 % 7] for i in range(len(columns["user"]))]}
    for name in PROBLEM.columns():
        values = columns[name]
        if isinstance(values, tf.RaggedTensor):
            lists[name] = values.to_list()
        else:
            lists[name] = [[] if v != v else [v] for v in values.tolist()]
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
