"""The consolidated log of an early stage: which row teaches which head, and how strongly."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tests.doubles.early_rows import ASKED, CQS, FEATURES, KIND, NAN, TABLE, E, log, pack, problem
from tfmtl.data.checks import Checks
from tfmtl.declare import early_stage
from tfmtl.declare.layout import LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.declare.split import by_row_number
from tfmtl.errors import DataError, SpecError
from tfmtl.features.encode import encode
from tfmtl.features.raw import DTYPES

CTR, CQS_TASK = early_stage.tasks(teacher="none")


def assert_same(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_each_row_type_is_labelled_as_the_papers_pipeline_says():
    packed = {name: value.numpy() for name, value in pack(log()).items()}
    ctr, cqs, teacher = packed[LABELS].T
    clicks = [1, 0, 1, 0]
    np.testing.assert_array_equal(ctr, [*clicks, 0, 0, E[6], 0, E[8], 0])
    np.testing.assert_array_equal(cqs, CQS)
    np.testing.assert_array_equal(teacher, np.where(ASKED, E, 0))
    np.testing.assert_array_equal(packed[WEIGHTS].T, [ASKED, np.ones(10), ASKED])
    np.testing.assert_array_equal(packed[PSEUDO][:, 0], [0] * 6 + [1, 0, 1, 0])
    np.testing.assert_array_equal(packed[PSEUDO][:, 1:], 0)


def test_without_pseudo_labels_an_ad_that_was_not_shown_has_no_click_rate():
    packed = pack(log(), problem(early_stage.tasks(pseudo_labels=False)))
    assert PSEUDO not in packed
    np.testing.assert_array_equal(packed[WEIGHTS][:, 0], KIND == "R1")
    np.testing.assert_array_equal(packed[LABELS][:, 0], np.where(KIND == "R1", log()["click"], 0))


@pytest.mark.parametrize("kinds", [["R2"], ["R3"], ["R4"], ["R2", "R3", "R4"]])
@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_a_click_column_where_no_click_was_asked_reaches_nothing(kinds, value):
    # Fitted anew: the target encoding of the click rate must not see it either.
    flipped = np.where(np.isin(KIND, kinds), np.float32(value), log()["click"])
    assert_same(pack(log(click=flipped)), pack(log()))


def test_the_click_of_an_impression_reaches_its_label_and_the_target_encoding():
    flipped = log()["click"]
    flipped[1] = 1
    one, other = pack(log()), pack(log(click=flipped))
    changed = {name for name in one if not np.array_equal(one[name], other[name])}
    assert changed == {LABELS, "numbers_ad"}
    assert other[LABELS][1, 0] == 1 and other[PSEUDO][1, 0] == 0


def test_an_impression_without_a_recorded_click_is_pseudo_labelled():
    packed = pack(log(click=np.where(np.arange(10) == 3, NAN, log()["click"])))
    assert packed[PSEUDO][3, 0] == 1 and packed[LABELS][3, 0] == E[3]


def test_a_click_that_nobody_could_make_opens_no_conversion_space():
    conversion = binary("cvr", label="conversion", observed_if="click")
    converted = np.ones(10, np.float32)
    packed = pack(log(conversion=converted), problem((CTR, conversion)))
    np.testing.assert_array_equal(
        packed[WEIGHTS][:, 1], np.isin(KIND, ["R1", "R2"]) & (log()["click"] == 1)
    )


def test_a_row_without_teacher_or_click_is_not_observed():
    packed = pack(log(final_pctr=np.where(KIND == "R4", NAN, E)))
    rows = KIND == "R4"
    for name in (LABELS, WEIGHTS, PSEUDO):
        assert not np.asarray(packed[name])[rows][:, [0, 2]].any()


def test_a_pseudo_label_weighs_its_share_of_the_rows_weight():
    tasks = (
        binary(
            "ctr",
            label="click",
            observed_if="ctr_traffic",
            labelled_if="is_impression",
            pseudo_label="final_pctr",
            pseudo_weight=0.25,
            weight="w",
        ),
    )
    weight = np.float32([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    found = pack(log(w=weight), problem(tasks))[WEIGHTS][:, 0]
    share = np.select([KIND == "R1", ASKED], [1, 0.25], 0)
    np.testing.assert_array_equal(found, weight * share)


def test_a_pseudo_weight_of_zero_leaves_the_impressions_alone():
    spec = {"label": "click", "observed_if": "ctr_traffic", "labelled_if": "is_impression"}
    without = binary("ctr", pseudo_label="final_pctr", pseudo_weight=0.0, **spec)
    one, other = (pack(log(), problem((task,))) for task in (without, binary("ctr", **spec)))
    np.testing.assert_array_equal(one[LABELS] * one[WEIGHTS], other[LABELS])
    np.testing.assert_array_equal(one[WEIGHTS], other[WEIGHTS])
    assert not one[PSEUDO].numpy().any()


def test_what_the_checks_count_is_what_packing_calls_a_true_label():
    counted, packed = check(log()).tasks, pack(log())
    true = np.where(packed[PSEUDO] > 0, 0, packed[WEIGHTS])
    for index, task in enumerate(problem().tasks):
        rows = sum(counts["observed"] for counts in counted[task.name].values())
        assert rows == (true[:, index] > 0).sum(), task.name
    positives = sum(counts["positives"] for counts in counted["ctr"].values())
    assert positives == 2


def test_transform_packs_the_same_labels_weights_and_pseudo_labels(tmp_path):
    pytest.importorskip("tensorflow_transform")
    from tensorflow_transform import beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    from components.analyzers import TransformAnalyzers

    # Features that Beam fits in one pass.
    declared = problem(features=(categorical("ad_id", encoding="hash", size=5), numerical("age")))
    spec = {n: tf.io.VarLenFeature(DTYPES[c.dtype]) for n, c in declared.columns().items()}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    lists = {n: [[] if v != v else [v] for v in log()[n].tolist()] for n in spec}
    instances = [{n: column[i] for n, column in lists.items()} for i in range(len(TABLE))]
    with tft_beam.Context(temp_dir=str(tmp_path)):
        (found, _), _ = (instances, metadata) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: encode(declared, inputs, TransformAnalyzers())
        )
    expected = pack(log(), declared)
    assert set(found[0]) == set(expected)
    for name, value in expected.items():
        rows = np.array([row[name] for row in found])
        if name.startswith("numbers"):
            np.testing.assert_allclose(rows, value, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(rows, value, err_msg=name)


@pytest.mark.parametrize("teacher", early_stage.TEACHER_MODES)
def test_a_declared_early_stage_survives_json(teacher):
    spec = problem(early_stage.tasks(teacher=teacher, cqs_loss="log_cosh"))
    assert ProblemSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_source_is_kept_or_left_out_of_the_training_rows():
    rates = {
        s: early_stage.augmentation(s, final=0.5, early=0.1).rates for s in early_stage.SOURCES
    }
    assert rates == {
        "both": {"R3": 0.5, "R4": 0.1},
        "final": {"R3": 0.5, "R4": 0.0},
        "early": {"R3": 0.0, "R4": 0.1},
        "none": {"R3": 0.0, "R4": 0.0},
    }


def test_the_papers_weights_are_shared_by_two_teachers():
    assert early_stage.loss_weights() == {"ctr": 1.0, "cqs": 1.5, "teacher": 2.0}
    for mode in early_stage.TEACHER_MODES:
        weights = early_stage.loss_weights(teacher=mode)
        assert set(weights) == {task.name for task in early_stage.tasks(teacher=mode)}
        distilled = sum(w for name, w in weights.items() if name.startswith("teacher"))
        assert distilled == (0 if mode == "none" else 2)


def check(columns, tasks=None):
    """The report on a hand-made log, of which each row has a split of its own."""
    spec = problem(tasks, features=(categorical("user_id"),))
    arrays = [
        pa.array(columns[name], pa.string() if c.dtype == "string" else pa.float32())
        for name, c in spec.columns().items()
    ]
    checks = Checks(spec, by_row_number(shares=(0.8, 0.1, 0.1)))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(spec.columns()))
    checks.update(batch, np.array([0] * 6 + [1, 2, 0, 0]))
    return checks.finish()


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, NAN])
def test_an_indicator_says_yes_or_no(value):
    with pytest.raises(DataError, match=r"indicator 'is_impression': 1 values .* in row 5"):
        check(log(is_impression=np.where(np.arange(10) == 4, value, log()["is_impression"])))


@pytest.mark.parametrize("value", [-0.1, 1.5, np.inf])
def test_a_pseudo_label_is_a_probability(value):
    with pytest.raises(DataError, match=r"pseudo_label 'final_pctr' of task 'ctr': 1 values"):
        check(log(final_pctr=np.where(np.arange(10) == 6, value, E)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: problem(features=(*FEATURES, numerical("ctr_traffic"))),
            ["indicators: 'ctr_traffic' is read by feature 'ctr_traffic'"],
        ),
        (
            lambda: problem(indicators=(*early_stage.INDICATORS, "click")),
            ["indicators: 'click' is a label"],
        ),
        (
            lambda: problem(indicators=("ctr_traffic", "is_impresion")),
            ["labelled_if='is_impression'", "Did you mean 'is_impresion'?"],
        ),
        (
            lambda: problem((binary("ctr", label="click", labelled_if="click"),)),
            ["labelled_if='click', which is no indicator"],
        ),
        (
            lambda: problem(features=(*FEATURES, numerical("final_pctr")), tasks=(CTR, CQS_TASK)),
            ["pseudo_label 'final_pctr' is also read by feature 'final_pctr'", "leak"],
        ),
        (
            lambda: problem((CTR, CQS_TASK, binary("t", label="e", head="cqs", served=False))),
            ["head='cqs' is no binary task", "['ctr']"],
        ),
        (
            lambda: problem(
                (
                    CTR,
                    binary("any_click", label="click"),
                    binary("cvr", label="conversion", observed_if="click"),
                )
            ),
            ["observed_if='click' could mean", "['None', 'is_impression']"],
        ),
        (
            lambda: problem((CTR, binary("t", label="e", head="crt", served=False))),
            ["Did you mean 'ctr'?"],
        ),
        (lambda: binary("t", label="e", head="ctr"), ["no prediction of its own", "served=False"]),
        (
            lambda: problem((binary("t", label="e", served=False),)),
            ["none is served"],
        ),
        (lambda: binary("t", label="e", pseudo_weight=-1.0), ["pseudo_weight=-1.0"]),
        (lambda: binary("t", label="e", pseudo_weight=NAN), ["pseudo_weight=nan"]),
        (lambda: regression("q", label="e", loss="hubr"), ["Did you mean 'huber'?"]),
        (lambda: regression("q", label="e", delta=0.0), ["delta=0.0 must be above 0"]),
        (lambda: early_stage.tasks(teacher="seperate"), ["Did you mean 'separate'?"]),
        (lambda: early_stage.loss_weights(teacher="all"), ["teacher='all' is none of"]),
        (lambda: early_stage.augmentation("finl"), ["Did you mean 'final'?"]),
        (lambda: early_stage.augmentation(early=1.5), ["row_type='R4' is kept at 1.5"]),
    ],
)
def test_a_contradiction_is_refused_by_name_with_the_likely_fix(make, words):
    with pytest.raises(SpecError) as error:
        make()
    for word in words:
        assert word in str(error.value)
