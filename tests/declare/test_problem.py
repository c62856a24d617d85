"""The declaration: what it derives and what it refuses."""

import dataclasses
import datetime
import json

import numpy as np
import pytest

from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Training, Tuning
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    count_encoding,
    numerical,
    regression,
    target_encoding,
)
from tfmtl.declare.split import by_column, by_hash, by_row_number, by_time
from tfmtl.errors import SpecError

CTR = binary("ctr", label="click")
CVR = binary("cvr", label="conversion", observed_if="click")
CTCVR = binary("ctcvr", label="conversion")
USER = categorical("user_id", side="user")


def problem(features=(USER,), tasks=(CTR, CVR, CTCVR), **context):
    return ProblemSpec(features=features, tasks=tasks, **context)


def test_a_metric_name_says_the_sample_space():
    assert problem().metric_name("cvr", "auc") == "cvr/auc@click"
    assert problem().metric_name("ctcvr", "auc") == "ctcvr/auc@imp"
    assert problem(space="person").metric_name("ctr", "ne") == "ctr/ne@person"


def test_a_funnel_is_found_by_labels_and_spaces_not_by_names():
    tasks = (
        binary("bought", label="sale"),
        binary("seen", label="view"),
        binary("sold", label="sale", observed_if="view"),
    )
    assert problem(tasks=tasks).funnel() == ("seen", "sold", "bought")
    assert problem(tasks=(CTR, CVR)).funnel() is None


def test_a_product_of_another_event_of_the_same_column_is_no_funnel():
    cvr = binary("cvr", label="event", positive="buy", observed_if="click")
    bought = binary("bought", label="event", positive="buy")
    returned = binary("returned", label="event", positive="return")
    assert problem(tasks=(CTR, cvr, returned, bought)).funnel() == ("ctr", "cvr", "bought")
    assert problem(tasks=(CTR, cvr, returned)).funnel() is None


def test_serving_inputs_hold_no_label_and_no_context():
    declared = problem(scene="scene", request_id="request_id", time="day")
    assert set(declared.feature_columns()) == {"user_id"}
    assert set(declared.columns()) == {
        "user_id", "click", "conversion", "scene", "request_id", "day",
    }  # fmt: skip


def test_every_kind_of_declaration_survives_json():
    declared = problem(
        features=(
            USER,
            categorical("tags", max_values=5, weights="tag_weights", pooling="sum"),
            categorical("slot", encoding="identity", size=4, dim=4),
            categorical("query", encoding="hash", size=100),
            numerical("price", encoding="quantile", bins=8, dim=4),
            numerical("age", encoding="piecewise", indicator=True),
            count_encoding("user_id"),
            target_encoding("user_id", task="cvr", smoothing=5.0),
        ),
        tasks=(CTR, CVR, CTCVR, regression("cqs", label="quality", weight="w")),
        scene="scene",
        request_id="r",
        drop_if=("click", "conversion"),
    )
    experiment = ExperimentConfig(
        name="everything",
        problem=declared,
        split=by_time("day", validation_from=3, test_from=4),
        evaluation=Evaluation(slices=("scene", ("scene", "slot")), bounds={"ctr/auc@imp": 0.6}),
        training=Training(seed=3),
        tuning=Tuning(space={"model.dim": [8, 16]}),
    )
    assert ProblemSpec.from_json(json.loads(json.dumps(declared.to_json()))) == declared
    assert ExperimentConfig.from_json(experiment.to_json()) == experiment


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: problem(tasks=(CTR, binary("cvr", label="conversion", observed_if="clik"))),
            ["'cvr' is observed_if='clik'", "['click', 'conversion']", "Did you mean 'click'?"],
        ),
        (lambda: problem(tasks=(binary("a", label="y", observed_if="y"),)), ["its own label"]),
        (lambda: problem(features=(USER, USER)), ["'user_id' is declared twice"]),
        (lambda: problem(tasks=(CTR, CTR)), ["'ctr' is declared twice"]),
        (lambda: problem(features=()), ["at least one feature"]),
        (lambda: problem(features=(numerical("click"),)), ["'click'", "leak"]),
        (
            lambda: problem(features=(categorical("x"), numerical("y", column="x"))),
            ["column 'x' is read as string", "float32"],
        ),
        (
            lambda: problem(features=(target_encoding("user_id", task="cvrr"),)),
            ["'cvrr'", "Did you mean 'cvr'?"],
        ),
        (lambda: problem(scene="click"), ["scene='click' is a label"]),
        (lambda: problem(drop_if=("clik", "conversion")), ["Did you mean 'click'?"]),
        (
            lambda: problem(tasks=(CTR, binary("cvr", label="sale", weight="click"))),
            ["observed_if='click'"],
        ),
        (lambda: categorical("x", encoding="hash"), ["needs size="]),
        (lambda: categorical("x", encoding="hsah", size=3), ["Did you mean 'hash'?"]),
        (lambda: categorical("x", weights="w"), ["give max_values="]),
        (lambda: categorical("x", side="usr"), ["Did you mean 'user'?"]),
        (lambda: numerical("x", bins=2), ["at least 3"]),
        (lambda: numerical("x", dim=4), ["dim="]),
        (lambda: binary("a b", label="y"), ["letters, digits"]),
        (lambda: Training(batch_size=0), ["training.batch_size=0"]),
        (
            lambda: ExperimentConfig(
                name="x",
                problem=problem(tasks=(regression("cqs", label="quality"),)),
                split=by_row_number(),
            ),
            ["over served binary tasks", "monitor='loss'"],
        ),
        (
            lambda: problem(
                tasks=(binary("a", label="y", positive="1"), regression("b", label="y"))
            ),
            ["'a' and 'b' share the label 'y'", "text"],
        ),
        (
            lambda: problem(
                tasks=(
                    binary("a", label="seg", positive="x"),
                    binary("b", label="seg", positive="y"),
                    binary("cvr", label="sale", observed_if="seg"),
                )
            ),
            ["observed_if='seg'", "['x', 'y']"],
        ),
        (lambda: by_hash("r", shares=(0.8, 0.1, 0.2)), ["summing to 1"]),
        (lambda: by_time("day", validation_from=4, test_from=3), ["must lie before"]),
        (lambda: by_column("s", train=("a",), test=("a",)), ["two splits"]),
        (lambda: by_row_number(shares=(0.65, 0.2, 0.15)), ["no multiple"]),
    ],
)
def test_a_contradiction_is_refused_by_name_with_the_likely_fix(make, words):
    with pytest.raises(SpecError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_dates_and_numpys_numbers_survive_json():
    day = datetime.date(2024, 1, 1)
    by_day = by_time("day", validation_from=day, test_from=day + datetime.timedelta(7))
    assert by_day.bounds == ("2024-01-01", "2024-01-08")
    for split in (by_day, by_time("day", validation_from=np.int64(3), test_from=np.int64(4))):
        experiment = ExperimentConfig(
            name="x", problem=problem(), split=split, training=Training(epochs=np.int64(3))
        )
        assert ExperimentConfig.from_json(experiment.to_json()) == experiment


def test_a_typo_in_an_argument_is_a_type_error():
    with pytest.raises(TypeError):
        categorical("x", mincount=3)


def test_rows_of_a_request_are_never_split_by_row():
    with pytest.raises(SpecError, match=r"by_hash\('request_id'\)"):
        ExperimentConfig(name="x", problem=problem(request_id="request_id"), split=by_row_number())


def test_a_path_replaces_one_field_and_names_a_wrong_one():
    experiment = ExperimentConfig(name="x", problem=problem(), split=by_row_number())
    changed = experiment.replace_path("model.backbone.num_experts", 3)
    assert changed.model.backbone == {"name": "mmoe", "num_experts": 3}
    assert dataclasses.replace(changed, model=experiment.model) == experiment
    with pytest.raises(SpecError, match="Did you mean 'learning_rate'"):
        experiment.replace_path("training.learnin_rate", 0.1)
