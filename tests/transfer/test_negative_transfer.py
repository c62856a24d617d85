"""Negative transfer: gains over single-task twins, gradients' cosines, use of experts."""

import dataclasses
import functools
import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tfmtl
from tests.doubles.worlds import PROBLEM, SMALL, packed
from tests.doubles.worlds import experiment as small_experiment
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.features import FIRST
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.declare.split import by_hash
from tfmtl.errors import SpecError
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.layers.gates import Gates, watched
from tfmtl.metrics.bootstrap import Interval
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.transfer import runs as transfer_runs
from tfmtl.transfer.gates import gate_entropy, gate_use
from tfmtl.transfer.intervals import over_rows, over_seeds
from tfmtl.transfer.negative_transfer import negative_transfer
from tfmtl.transfer.picture import draw_transfer
from tfmtl.transfer.report import Cosines, TaskTransfer, TransferReport, epoch_cosines
from tfmtl.transfer.twins import TaskRows, twin_of

# Four kinds of rows, and one number that tells them apart: the whole of what tasks share.
KINDS = 4
PROBLEM_OF_TWO = ProblemSpec(
    features=(categorical("kind", encoding="identity", size=KINDS, dim=1),),
    tasks=(binary("first", label="a"), binary("second", label="b")),
)
SCALAR = {"name": "shared_bottom", "bottom_units": ()}


def rows_of(first, second, count=2048, seed=0, noise=0.1):
    """Rows whose labels are 1 for some kinds, and one in ten of them turned."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, KINDS, count)
    turned = rng.random(count) < noise
    labels = np.stack([np.isin(kind, first) ^ turned, np.isin(kind, second) ^ turned], axis=1)
    return ArrayRows(
        {
            "ids_context": (kind + FIRST)[:, None],
            LABELS: labels.astype(np.float32),
            WEIGHTS: np.ones((count, 2), np.float32),
        }
    )


def data_of(first, second, count=2048):
    parts = [rows_of(first, second, count, seed=seed) for seed in range(3)]
    return PackedData(parts[0], parts[1], {"kind": KINDS + FIRST}), parts[2]


def experiment(backbone=SCALAR, **training):
    return ExperimentConfig(
        name="two",
        problem=PROBLEM_OF_TWO,
        split=by_hash("kind"),
        model=Model(backbone=backbone, dim=1, tower_units=(), l2=0.0),
        training=Training(
            **{"epochs": 3, "batch_size": 64, "learning_rate": 0.1, "patience": 9} | training
        ),
    )


class Spy:
    """Notes what is trained, and trains it."""

    def __init__(self, patch):
        self.calls = []
        self.train = transfer_runs.train
        patch.setattr(transfer_runs, "train", self)

    def __call__(self, experiment, data, **arguments):
        self.calls.append((experiment, data))
        return self.train(experiment, data, **arguments)

    def of(self, *tasks):
        return [call for call in self.calls if call[0].problem.task_names == tasks]


@pytest.fixture(scope="module")
def crossing(tmp_path_factory):
    """Kinds 2 and 3 against kinds 1 and 3: no order of four numbers on a line serves both."""
    folder = str(tmp_path_factory.mktemp("crossing"))
    data, test = data_of([2, 3], [1, 3])
    run = functools.partial(
        negative_transfer, experiment(), data, test, seeds=(3, 4), directory=folder, verbose=0
    )
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        report = run()
    return report, spy, run, folder


class OneStart(keras.callbacks.Callback):
    """Starts every task's logit where the first's starts."""

    done = False

    def on_train_begin(self, logs=None):
        first, *others = self.model.heads.logits.values()
        if not self.done:
            for other in others:
                other.kernel.assign(first.kernel)
        self.done = True


@pytest.fixture(scope="module")
def equal():
    """One label under two names, through experts with a gate."""
    data, test = data_of([2, 3], [2, 3], count=512)
    settings = experiment({"name": "omoe", "num_experts": 3, "expert_units": (4,)})
    train = transfer_runs.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            transfer_runs,
            "train",
            lambda *arguments, callbacks, **more: train(
                *arguments, callbacks=(*callbacks, OneStart()), **more
            ),
        )
        return negative_transfer(settings, data, test, seeds=1, verbose=0, samples=100)


# --- verdicts ----------------------------------------------------------------------------------


def test_tasks_that_one_number_cannot_order_hurt_each_other(crossing):
    report = crossing[0]
    assert [task.verdict for task in report.tasks.values()].count("hurt") >= 1
    assert "helped" not in {task.verdict for task in report.tasks.values()}
    # The best that a common order of the four kinds can do, without noise, is 1 and 3/4 or twice
    # 7/8; alone each task has 1. One label in ten is turned, which takes 1 - 2 · 0.1 of it.
    lost = sum(task.gain.value for task in report.tasks.values())
    assert lost == pytest.approx(-0.25 * 0.8, abs=0.05)
    for task in report.tasks.values():
        assert np.mean(task.alone) == pytest.approx(0.9, abs=0.03)


def test_gradients_of_tasks_at_their_compromise_point_against_each_other(crossing):
    # Where the sum of two gradients is zero, one is the other's opposite.
    assert crossing[0].cosines.of("first", "second")[-1] < -0.8


def test_equal_tasks_pull_the_same_way_and_do_not_hurt(equal):
    assert "hurt" not in {task.verdict for task in equal.tasks.values()}
    first, second = equal.tasks.values()
    assert first.together == pytest.approx(second.together)
    # From one start two names of one task have one gradient, for good.
    assert equal.cosines.of("first", "second") == pytest.approx([1.0] * 3, abs=1e-4)
    assert [equal.cosines.mean[i][i] for i in range(2)] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "helped"),
        (-0.3, -0.1, "hurt"),
        (-0.1, 0.3, "no difference"),
        (math.nan, math.nan, "no difference"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low, high, verdict):
    gain = Interval((low + high) / 2 if low == low else 0.2, low, high)
    task = TaskTransfer(metric="ctr/auc@imp", together=(0.7,), alone=(0.6,), gain=gain)
    assert task.verdict == verdict


def test_a_smaller_error_is_a_gain_and_a_smaller_auc_a_loss():
    labels = np.array([0.0, 1.0] * 50)
    close, far = labels * 0.8 + 0.1, labels * 0.2 + 0.4
    found = over_rows("regression", "mse", labels, far, close, samples=20)
    assert (found.low, found.high) == pytest.approx((0.15, 0.15))
    found = over_rows("binary", "auc", labels, close, 1 - close, samples=20)
    assert found.value == -1.0


def test_the_interval_of_one_seed_draws_whole_requests():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 40))
    labels, groups = np.zeros(400), np.repeat(np.arange(40), 10)
    alone, together = np.repeat(one, 10), np.repeat(other, 10)
    by_request = over_rows("regression", "mse", labels, alone, together, groups, samples=300)
    by_row = over_rows("regression", "mse", labels, alone, together, samples=300)
    # Ten equal rows say no more than one.
    ratio = (by_request.high - by_request.low) / (by_row.high - by_row.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.25)


def test_the_interval_over_seeds_is_student_s():
    found = over_seeds([1.0, 2.0, 3.0])
    # 4.303 is the 97.5 % point with two degrees of freedom.
    assert found.high - 2.0 == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert math.isnan(over_seeds([1.0]).low)


# --- twins -------------------------------------------------------------------------------------


def test_a_twin_has_the_seed_the_rows_and_the_settings_of_its_model(crossing):
    _, spy, _, _ = crossing
    models, twins = spy.of("first", "second"), spy.of("second")
    assert [e.training.seed for e, _ in models] == [3, 4]
    for (model, whole), (twin, part) in zip(models, twins, strict=True):
        assert twin.training == model.training
        assert twin.model.backbone == model.model.backbone
        for rows, own in ((whole.train, part.train), (whole.validation, part.validation)):
            assert own.count() == rows.count()
            pairs = zip(rows.batches(64, seed=5), own.batches(64, seed=5), strict=True)
            for batch, same in pairs:
                np.testing.assert_array_equal(same["ids_context"], batch["ids_context"])
                np.testing.assert_array_equal(same[LABELS], batch[LABELS][:, 1:])


def test_the_twin_of_a_post_click_task_learns_from_clicks_alone_and_keeps_its_name():
    settings = small_experiment(backbone={"name": "esmm", "units": (8,)}, monitor="ctr/auc@imp")
    twin = twin_of(settings, "cvr")
    assert twin.problem.metric_name("cvr", "auc") == "cvr/auc@click"
    assert twin.training.monitor == "mean_auc"
    assert twin_of(settings, "ctr").training.monitor == "ctr/auc@imp"
    assert twin_of(settings, "cqs").training.monitor == "loss"
    _, data = packed(train=128, validation=64)
    batch = next(iter(TaskRows(data.train, PROBLEM, twin.problem).batches(128)))
    whole = next(iter(data.train.batches(128)))
    np.testing.assert_array_equal(batch[WEIGHTS][:, 0], whole[LABELS][:, 0])
    model = MultiTaskModel.build_from(twin.problem, data.table_rows, twin.model)
    unclicked = {n: tf.boolean_mask(v, batch[WEIGHTS][:, 0] == 0) for n, v in batch.items()}
    assert not model.task_losses(unclicked).observed.numpy().any()
    assert model.task_losses(batch).observed.numpy().all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("aitm", "cgc") else pytest.mark.slow)
        for name in sorted(SMALL)
    ],
)
def test_every_backbone_has_a_twin_for_every_kind_of_task(name):
    _, data = packed(train=64, validation=64)
    settings = small_experiment(backbone={"name": name, **SMALL[name]})
    for task in ("cvr", "ctcvr", "cqs"):
        twin = twin_of(settings, task)
        assert ExperimentConfig.from_json(twin.to_json()) == twin
        rows = TaskRows(data.train, PROBLEM, twin.problem)
        model = MultiTaskModel.build_from(twin.problem, data.table_rows, twin.model)
        assert set(model(next(iter(rows.batches(64))))) == {task}


# --- gates -------------------------------------------------------------------------------------


def test_a_uniform_gate_has_the_entropy_log_e_and_a_certain_one_none():
    assert gate_entropy(np.full([2, 5], 0.2)) == pytest.approx([math.log(5)] * 2)
    assert gate_entropy(np.eye(5)).tolist() == [0.0] * 5


def test_an_untrained_gate_of_zero_weights_is_even_and_a_biased_one_certain():
    _, data = packed(train=64, validation=64)
    settings = small_experiment(backbone={"name": "mmoe", **SMALL["mmoe"]})
    model = MultiTaskModel.build_from(PROBLEM, data.table_rows, settings.model)
    batches = list(data.train.batches(32))
    model(batches[0])
    gates = model.backbone.gates
    for variable in gates.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    (even,) = gate_use(model, batches)
    assert even.readers == PROBLEM.task_names and len(even.experts) == 3
    assert even.evenness == pytest.approx([1.0] * 4)
    assert np.array(even.use) == pytest.approx(np.full([4, 3], 1 / 3))
    kernel, bias = gates.logits.kernel, gates.logits.bias
    one_hot = np.zeros([4, 3], np.float32)
    one_hot[:, 1] = 200.0
    bias.assign(one_hot.reshape(bias.shape))
    kernel.assign(tf.zeros_like(kernel))
    (certain,) = gate_use(model, batches)
    assert certain.entropy == pytest.approx([0.0] * 4)
    assert np.array(certain.use)[:, 1] == pytest.approx([1.0] * 4)


def test_watching_gates_notes_what_mixes_the_experts_and_ends_with_the_block():
    gates = Gates(2, 3)
    x, experts = tf.random.normal([4, 5]), tf.random.normal([4, 3, 7])
    with watched([gates]) as (noted,):
        mixed = gates(x, experts)
    np.testing.assert_allclose(mixed, tf.matmul(noted[0], experts), rtol=1e-6)
    gates(x, experts)
    assert len(noted) == 1


def test_the_levels_of_ple_name_their_experts():
    _, data = packed(train=64, validation=64)
    more = {"expert_units": ((8,), (8,)), "num_specific": 1, "num_shared": 2}
    settings = small_experiment(backbone={"name": "ple", **more})
    model = MultiTaskModel.build_from(PROBLEM, data.table_rows, settings.model)
    found = {gate.gate: gate for gate in gate_use(model, data.train.batches(64))}
    assert list(found) == ["level_1", "level_1, shared", "level_2"]
    assert found["level_2"].experts == ("own 1", "shared 1", "shared 2")
    assert found["level_1, shared"].experts[:2] == ("ctr 1", "cvr 1")
    for gate in found.values():
        assert np.sum(gate.use, axis=1) == pytest.approx([1.0] * len(gate.readers))


def test_a_backbone_without_gates_has_none():
    _, data = packed(train=64, validation=64)
    settings = small_experiment(backbone={"name": "aitm", **SMALL["aitm"]})
    model = MultiTaskModel.build_from(PROBLEM, data.table_rows, settings.model)
    assert gate_use(model, data.train.batches(64)) == ()


# --- the report --------------------------------------------------------------------------------


def test_what_is_finished_is_not_trained_again(crossing, monkeypatch):
    report, _, run, folder = crossing
    spy = Spy(monkeypatch)
    assert run() == report
    assert spy.calls == []


def test_after_an_interruption_only_what_is_missing_is_trained(crossing, monkeypatch, tmp_path):
    report, _, run, folder = crossing
    copy = shutil.copytree(folder, tmp_path / "copy")
    (missing,) = copy.glob("second-alone-seed4-*")
    (missing / "result.json").unlink()
    spy = Spy(monkeypatch)
    found = run(directory=str(copy))
    ((again, _),) = spy.calls
    assert again.problem.task_names == ("second",) and again.training.seed == 4
    assert found == report


def test_one_seed_of_several_is_judged_by_its_rows(crossing, monkeypatch):
    report, _, run, _ = crossing
    spy = Spy(monkeypatch)
    found = run(seeds=(4,), samples=50)
    assert spy.calls == [] and found.over == "rows"
    for name, task in found.tasks.items():
        assert task.gain.value == pytest.approx(task.together[0] - task.alone[0])
        assert task.together == report.tasks[name].together[1:]
        assert task.gain.low <= task.gain.value <= task.gain.high
    assert "hurt" in {task.verdict for task in found.tasks.values()}


def test_other_rows_are_not_taken_for_those_trained_on():
    one, other = rows_of([2], [3]), rows_of([2], [3])
    assert transfer_runs.digest_of(one) == transfer_runs.digest_of(other)
    labels = one.tensors[LABELS].numpy()
    labels[7, 0] = 1 - labels[7, 0]
    changed = ArrayRows({**one.tensors, LABELS: labels})
    assert transfer_runs.digest_of(one) != transfer_runs.digest_of(changed)


def test_a_report_survives_json(equal, crossing):
    for report in (equal, crossing[0]):
        text = json.dumps(report.to_json(), allow_nan=False)
        assert TransferReport.from_json(json.loads(text)) == report
    assert "verdict" in text and '"over": "seeds"' in text


def test_cosines_go_to_the_epoch_whose_steps_came_before():
    def row(step, cosine):
        return {"step": step, "norm/a": 1.0, "norm/b": 1.0, "cosine/a/b": cosine}

    first = [row(0, 9.0), row(2, 0.2), row(4, 0.4), row(6, -0.5)]
    second = [row(0, 9.0), row(4, -0.1), row(8, math.nan)]
    found = epoch_cosines([first, second], ("a", "b"), steps=4)
    assert isinstance(found, Cosines)
    # The first seed's mean is 0.3; both seeds count alike, and what is undefined does not.
    assert found.of("a", "b") == pytest.approx((0.1, -0.5))
    assert found.mean[0][1] == pytest.approx(-0.2)


def test_the_table_names_metric_verdict_and_experts(equal):
    text = str(equal)
    for part in ("first/auc@imp", "intervals over rows", "gradient cosines", "expert 3"):
        assert part in text


def test_the_picture_has_gains_cosines_and_experts(equal, crossing, tmp_path):
    figure = draw_transfer(equal)
    gains, cosines, experts = (axis for axis in figure.axes if axis.get_label() != "<colorbar>")
    assert [label.get_text() for label in gains.get_yticklabels()] == [
        "first/auc@imp",
        "second/auc@imp",
    ]
    (line, _) = cosines.get_lines()
    assert line.get_ydata() == pytest.approx(equal.cosines.of("first", "second"))
    np.testing.assert_allclose(experts.get_images()[0].get_array(), equal.gates[0].use)
    figure.savefig(tmp_path / "equal.png")
    mixed = dataclasses.replace(
        equal,
        tasks={
            **equal.tasks,
            "third": dataclasses.replace(equal.tasks["first"], metric="third/mse@imp"),
        },
    )
    assert len(draw_transfer(mixed).axes) == len(figure.axes) + 1
    assert len(draw_transfer(crossing[0]).axes) == 2


@pytest.mark.slow
def test_tasks_that_share_nothing_have_no_cosines():
    data, test = data_of([2, 3], [1, 3])
    settings = experiment({"name": "single_task", "bottom_units": (4,)}, epochs=1)
    report = negative_transfer(settings, data, test, seeds=1, samples=10, verbose=0)
    assert report.cosines is None and report.gates == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "at least 1"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"metric": "calibration"}, "is measured by one of"),
        ({"metric": "gauc"}, "declares neither"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(changes, message):
    data, test = data_of([2, 3], [1, 3])
    with pytest.raises(SpecError, match=message):
        negative_transfer(experiment(), data, test, **changes)


def test_a_single_task_has_nothing_to_be_compared_with():
    data, test = data_of([2, 3], [1, 3])
    with pytest.raises(SpecError, match="several tasks"):
        negative_transfer(twin_of(experiment(), "first"), data, test)


def test_the_names_are_public():
    assert tfmtl.negative_transfer is negative_transfer
    assert tfmtl.draw_transfer is draw_transfer
    assert tfmtl.TransferReport is TransferReport
