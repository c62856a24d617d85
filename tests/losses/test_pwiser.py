"""PWiseR as a term: in models of several tasks and of clicks alone, and over many batches."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from absl import logging

import tfmtl.losses.pwiser
from pipeline.config import check
from tests.doubles.worlds import PROBLEM, SMALL, experiment, rows
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.layout import LABELS
from tfmtl.declare.problem import ProblemSpec, binary
from tfmtl.declare.split import by_hash
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.losses.pwiser import SILENT_BATCHES, PWiseR
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.serving.export import ServingModel
from tfmtl.training.epochs import compile_model

CTR = binary("ctr", label="click")
CVR = binary("cvr", label="conversion", observed_if="click")
CTCVR = binary("ctcvr", label="conversion")
BOUGHT = binary("bought", label="conversion", head="ctr", trained=False, served=False)
TERM = {"name": "pwiser", "weight": 0.1}


def declared(*tasks):
    features = [f for f in PROBLEM.features if f.name in ("user", "ad", "slot", "age")]
    return ProblemSpec(features=features, tasks=tasks, request_id="request")


def data_of(problem):
    preprocessor = Preprocessor(problem)
    first = ArrayRows(preprocessor.fit(rows(640)))
    second = ArrayRows(preprocessor(rows(256, seed=1)))
    return preprocessor, PackedData(first, second, preprocessor.table_rows())


MANY, ALONE = declared(CTR, CVR, CTCVR), declared(CTR, BOUGHT)
DATA = {"mmoe": data_of(MANY), "dnn": data_of(ALONE)}
PROBLEMS = {"mmoe": MANY, "dnn": ALONE}
BACKBONES = sorted(PROBLEMS)


def settings_of(backbone, terms=(TERM,), **changes):
    changes = {"backbone": {"name": backbone, **SMALL[backbone]}, "terms": terms, **changes}
    small = experiment(**changes)
    return ExperimentConfig(
        name="small",
        problem=PROBLEMS[backbone],
        split=by_hash("request"),
        model=small.model,
        training=small.training,
    )


def model_of(backbone, terms=(TERM,)):
    keras.utils.set_random_seed(3)
    settings = settings_of(backbone, terms)
    model = MultiTaskModel.build_from(
        settings.problem, DATA[backbone][1].table_rows, settings.model
    )
    compile_model(model, settings.training)
    model(batch_of(backbone))
    return model


def batch_of(backbone, conversions=True):
    batch = dict(next(iter(DATA[backbone][1].train.batches(64))))
    if not conversions:
        labels = batch[LABELS].numpy()
        for place, task in enumerate(PROBLEMS[backbone].tasks):
            labels[:, place] *= task.label != "conversion"
        batch[LABELS] = tf.constant(labels)
    return batch


@functools.cache
def after_a_step(backbone, conversions, weight=0.0, method=None):
    terms = ({**TERM, "weight": weight, "method": method},) if method else ()
    model = model_of(backbone, terms)
    model.fit(tf.data.Dataset.from_tensors(batch_of(backbone, conversions)), verbose=0)
    return [v.numpy() for v in model.trainable_variables]


@pytest.mark.parametrize(
    ("backbone", "method"), [("dnn", "sorted"), ("dnn", "chunked"), ("mmoe", "sorted")]
)
def test_a_batch_without_conversions_trains_as_by_cross_entropy_to_the_last_bit(backbone, method):
    plain = after_a_step(backbone, False)
    with_term = after_a_step(backbone, False, 10.0, method)
    for one, other in zip(plain, with_term, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_with_conversions_trains_otherwise():
    plain, moved = after_a_step("dnn", True), after_a_step("dnn", True, 10.0, "sorted")
    assert any((one != other).any() for one, other in zip(plain, moved, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_models_of_one_task_and_of_many_call_the_same_function(backbone, monkeypatch):
    calls = []

    def spy(scores, click, conversion, weights, **options):
        calls.append((scores, click, conversion))
        return real(scores, click, conversion, weights, **options)

    real = tfmtl.losses.pwiser.pwiser
    monkeypatch.setattr(tfmtl.losses.pwiser, "pwiser", spy)
    model, batch = model_of(backbone), batch_of(backbone)
    model.compute_loss(batch)
    ((scores, click, conversion),) = calls
    raw = rows(640)
    np.testing.assert_array_equal(scores, model(batch)["ctr"])
    np.testing.assert_array_equal(click, raw["click"][:64])
    np.testing.assert_array_equal(conversion, raw["conversion"][:64])


def test_lambda_counts_once_beside_the_balanced_losses_and_each_head_is_added():
    batch = batch_of("mmoe")
    plain, _ = model_of("mmoe", ()).compute_loss(batch)
    scores = model_of("mmoe", ())(batch)
    click, conversion = (tf.constant(rows(640)[label][:64]) for label in ("click", "conversion"))
    each = {h: tfmtl.losses.pwiser.pwiser(scores[h], click, conversion) for h in ("ctr", "ctcvr")}
    for heads in (["ctr"], ["ctcvr"], ["ctr", "ctcvr"]):
        total, _ = model_of("mmoe", ({**TERM, "weight": 0.5, "heads": heads},)).compute_loss(batch)
        added = 0.5 * sum(float(each[head]) for head in heads)
        assert float(total - plain) == pytest.approx(added, rel=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_experiment_with_the_term_is_accepted_trains_and_survives_json(backbone):
    literal = {**TERM, "gate": "literal", "pos_queue": 3, "heads": ["ctr"]}
    settings = settings_of(backbone, (TERM, literal))
    again = ExperimentConfig.from_json(settings.to_json())
    assert again == settings
    check(again)
    trained = train(again, DATA[backbone][1], verbose=0)
    last = trained.history[-1]
    assert np.isfinite(last["loss"]) and last["val_ctr/auc@imp"] > 0.5
    assert [type(t).__name__ for t in trained.model.terms] == ["PWiseR", "PWiseR"]
    assert (trained.model.terms[1].queue.numpy() > 0).all()


def test_a_label_without_a_loss_is_measured_and_weighs_nothing():
    model, batch = model_of("dnn", ()), batch_of("dnn")
    assert model.heads.trained == model.heads.tasks == ("ctr",)
    total, losses = model.compute_loss(batch)
    flipped = {**batch, LABELS: batch[LABELS] * [1.0, 0.0]}
    assert losses.shape == [1] and float(model.compute_loss(flipped)[0]) == float(total)
    metrics = model.evaluate([batch])
    assert metrics["mean_auc"] == metrics["ctr/auc@imp"] != metrics["bought/auc@imp"]
    assert metrics["loss"] == metrics["ctr/log_loss@imp"]
    assert ProblemSpec.from_json(ALONE.to_json()) == ALONE


def test_a_label_without_a_loss_has_no_head_of_its_own():
    with pytest.raises(SpecError, match="head='ctr'"):
        binary("bought", label="conversion", trained=False, served=False)


def term_of(*tasks, **arguments):
    return PWiseR((), declared(*(tasks or (CTR, BOUGHT))), weight=1.0, **arguments)


def call(term, scores, click, conversion, weights=None, training=False):
    labels = tf.stack([tf.constant(click, tf.float32), tf.constant(conversion, tf.float32)], 1)
    weights = tf.ones_like(labels) if weights is None else tf.constant(weights, tf.float32)
    scores = tf.constant(scores, tf.float32)
    return float(term({"ctr": scores, "bought": scores}, labels, weights, training=training))


def test_rows_of_unknown_labels_are_left_out_and_a_conversion_matters_only_after_a_click():
    term = term_of(margin_no_click=0.0)
    known = call(term, [0.5, 0.4, 0.6], [1, 1, 0], [0, 1, 0])
    assert known == pytest.approx(0.4**2 + 0.2**2)
    scores, click, conversion = [0.5, 0.4, 0.6, 0.9], [1, 1, 0, 1], [0, 1, 0, 0]
    unknown = [[1.0, 1], [1, 1], [1, 0], [1, 0]]
    assert call(term, scores, click, conversion, unknown) == pytest.approx(known)
    unknown[3] = [0, 1]
    assert call(term, scores, click, conversion, unknown) == pytest.approx(known)
    # As a pseudo-label would be.
    click[3] = 0.3
    assert call(term, scores, click, conversion) == pytest.approx(known)


@pytest.mark.parametrize(
    ("tasks", "arguments", "found"),
    [
        ((CTCVR, CTR, CVR), {}, ("ctr", "ctcvr", ("ctr",))),
        ((CTR, BOUGHT), {}, ("ctr", "bought", ("ctr",))),
        ((CTR, CTCVR), {"click": "ctr", "conversion": "ctcvr"}, ("ctr", "ctcvr", ("ctr",))),
        ((CTR, CVR, CTCVR), {"conversion": "cvr"}, ("ctr", "cvr", ("ctr",))),
        ((CTR, CVR, CTCVR), {"heads": ["ctcvr"]}, ("ctr", "ctcvr", ("ctcvr",))),
    ],
)
def test_the_labels_come_from_the_funnel_from_the_label_that_rides_along_or_by_name(
    tasks, arguments, found
):
    term = term_of(*tasks, **arguments)
    assert (term.click, term.conversion, term.heads) == found


@pytest.mark.parametrize(
    ("tasks", "arguments", "says"),
    [
        ((CTR, CTCVR), {}, "give click= and conversion="),
        ((CTR,), {"click": "ctr"}, "give click= and conversion="),
        ((CTR, CVR, CTCVR), {"conversion": "ctcv"}, "Did you mean 'ctcvr'"),
        ((CTR, CVR, CTCVR), {"heads": ["ctrr"]}, "Did you mean 'ctr'"),
        ((CTR, CVR, CTCVR), {"heads": ["cvr"]}, "no probability of its own on the rows of 'ctr'"),
        ((CTR, BOUGHT), {"heads": ["bought"]}, "no probability of its own"),
        ((CTR, BOUGHT), {"heads": "ctr"}, "heads are different tasks"),
        ((CTR, BOUGHT), {"click": "bought"}, "one label"),
        ((CTR, BOUGHT), {"gate": "soft"}, "gate='soft'"),
        ((CTR, BOUGHT), {"margin_click": -1.0}, "margin_click"),
        ((CTR, BOUGHT), {"pos_queue": -1}, "pos_queue"),
        ((binary("ctr", label="click", soft=True), BOUGHT), {}, "soft labels"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(tasks, arguments, says):
    with pytest.raises(SpecError, match=says):
        term_of(*tasks, **arguments)


def test_the_queue_holds_the_last_conversions_of_training_in_order():
    term = term_of(pos_queue=3)
    assert call(term, [0.9, 0.8], [1, 0], [0, 0], training=True) == 0.0
    call(term, [0.1, 0.2, 0.9], [1, 1, 0], [1, 1, 0], training=True)
    np.testing.assert_allclose(term.queue, [[0.0, 0.1, 0.2]])
    np.testing.assert_array_equal(term.queue_weights, [0, 1, 1])
    call(term, [0.3, 0.4], [1, 1], [1, 1], training=False)
    np.testing.assert_allclose(term.queue, [[0.0, 0.1, 0.2]])
    call(term, [0.3, 0.4], [1, 1], [1, 1], training=True)
    np.testing.assert_allclose(term.queue, [[0.2, 0.3, 0.4]])
    # Over a lone rival at 0.5: (0.6² + 0.5² + 0.4²), from the queue alone.
    assert call(term, [0.5], [0], [0]) == pytest.approx(0.36 + 0.25 + 0.16)


def test_the_queue_is_in_checkpoints_and_not_in_what_is_served(tmp_path):
    terms = ({**TERM, "pos_queue": 4},)
    model = model_of("dnn", terms)
    model.fit(tf.data.Dataset.from_tensors(batch_of("dnn")), verbose=0)
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "weights"))
    other = model_of("dnn", terms)
    assert not other.terms[0].queue.numpy().any()
    tf.train.Checkpoint(model=other).read(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other.terms[0].queue, model.terms[0].queue)
    assert other.terms[0].queue.numpy().all()
    served = {v.name for v in ServingModel(model, DATA["dnn"][0]).variables}
    assert served and not [name for name in served if "queue" in name]
    assert not [v for v in model.trainable_variables if "queue" in v.name]
    assert not model_of("dnn").terms[0].variables


def test_a_printed_gate_that_stays_closed_is_warned_of_now_and_then(monkeypatch):
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: warned.append(text % a))
    term = term_of(gate="literal")
    step = tf.function(lambda *batch: term(*batch, training=True))

    def train_on(scores, click, conversion, times):
        scores = tf.constant(scores)
        batch = {"ctr": scores, "bought": scores}, tf.stack([click, conversion], 1)
        for _ in range(times):
            step(*batch, tf.ones([2, 2]))

    closed = [0.02, 0.01], [0.0, 1.0], [0.0, 1.0]
    train_on(*closed, SILENT_BATCHES - 1)
    train_on([0.02, 0.01], [0.0, 1.0], [0.0, 0.0], 2 * SILENT_BATCHES)
    assert not warned
    train_on(*closed, 1)
    assert len(warned) == 1 and "in 100 batches in a row" in warned[0]
    train_on(*closed, 3 * SILENT_BATCHES)
    assert [text.split()[2] for text in warned] == ["100", "200", "400"]
    train_on([0.9, 0.1], [0.0, 1.0], [0.0, 1.0], 1)
    assert int(term.silent) == 0
    train_on(*closed, SILENT_BATCHES)
    assert len(warned) == 4
    call(term, *closed, training=False)
    assert int(term.silent) == SILENT_BATCHES
