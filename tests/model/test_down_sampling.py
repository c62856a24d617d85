"""Training on a part of the negatives, with predictions of the scale of all rows."""

import dataclasses

import numpy as np
import pytest

import tfmtl
from tests.doubles.worlds import PROBLEM, experiment, packed
from tfmtl.declare.down_sampling import down_sampling_of
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.declare.split import Sampling
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData, label_moments
from tfmtl.model.task_losses import row_weights
from tfmtl.training.epochs import ready

TASKS = (
    binary("ctr", label="click"),
    binary("cvr", label="buy", observed_if="click"),
    binary("ctcvr", label="buy"),
)
LOGISTIC = ProblemSpec(features=(numerical("x"), numerical("z"), numerical("xz")), tasks=TASKS)


def log(rows, seed):
    """Clicks and conversions of logistic functions of the features, with many clicks in a part."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, rows))
    click = rng.random(rows) < 1 / (1 + np.exp(2.5 - 1.2 * x))
    buy = click & (rng.random(rows) < 1 / (1 + np.exp(1.0 - z)))
    columns = {"x": x, "z": z, "xz": x * z, "click": click, "buy": buy}
    return {name: values.astype(np.float32) for name, values in columns.items()}


def kept(columns, rate, seed=9):
    keep = (columns["click"] > 0) | (np.random.default_rng(seed).random(len(columns["x"])) < rate)
    return {name: values[keep] for name, values in columns.items()}


def trained(rate, correct, rows=60_000):
    train, test = log(int(rows / (0.1 + 0.9 * rate)), 1), log(60_000, 2)
    preprocessor = Preprocessor(LOGISTIC)
    first = ArrayRows(preprocessor.fit(kept(train, rate)))
    second = ArrayRows(preprocessor(test))
    sampling = Sampling(column="click", rates={"0": rate}, correct=correct) if rate < 1 else None
    config = experiment(epochs=4, learning_rate=0.01, batch_size=512, decay="cosine")
    config = dataclasses.replace(
        config,
        problem=LOGISTIC,
        split=tfmtl.by_row_number(),
        sampling=sampling,
        model=tfmtl.Model(backbone={"name": "single_task", "bottom_units": (16,)}, tower_units=()),
    )
    model = tfmtl.train(config, PackedData(first, second, {}), verbose=0).model
    return model.evaluate(second.batches(4096))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "correct"), [(1, "none"), (0.1, "offset"), (0.1, "weight"), (0.01, "offset")]
)
def test_predictions_are_of_the_scale_of_all_rows(rate, correct):
    metrics = trained(rate, correct)
    assert metrics["ctr/calibration@imp"] == pytest.approx(1, abs=0.04)
    assert metrics["cvr/calibration@click"] == pytest.approx(1, abs=0.05)
    if rate > 0.01:
        # Few negatives with large weights say little about conversions per impression.
        assert metrics["ctcvr/calibration@imp"] == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_without_correction_predictions_are_of_the_kept_rows_scale():
    assert trained(0.1, "none")["ctr/calibration@imp"] > 2


def test_the_heads_start_at_the_rates_of_all_rows():
    _, data = packed(2000, 100)
    columns = {k: v.numpy() for k, v in next(iter(data.train.batches(2000))).items()}
    true = columns["labels"][:, 0].mean()
    rng = np.random.default_rng(0)
    keep = (columns["labels"][:, 0] > 0) | (rng.random(2000) < 0.25)
    part = ArrayRows({name: values[keep] for name, values in columns.items()})
    sampling = Sampling(column="click", rates={"0": 0.25}, correct="offset")
    config = dataclasses.replace(experiment(), sampling=sampling)
    model = ready(config, PackedData(part, data.validation, data.table_rows), None)
    start = 1 / (1 + np.exp(-model.heads.logits["ctr"].bias.numpy()[0]))
    assert start == pytest.approx(true, rel=0.1)
    assert label_moments(part)[0][0] > 1.3 * true


def test_a_kept_row_stands_for_those_that_were_left_out():
    sampling = Sampling(column="click", rates={"0": 0.1, "1": 0.5}, correct="weight")
    labels = np.zeros((3, len(PROBLEM.tasks)), np.float32)
    labels[1, 0] = 1
    found = row_weights(PROBLEM, down_sampling_of(sampling, PROBLEM), labels)
    np.testing.assert_allclose(found, [10, 2, 10])


def test_the_loss_of_a_kept_row_is_that_of_the_shifted_logit():
    _, data = packed(256, 100)
    sampling = Sampling(column="click", rates={"0": 0.1}, correct="offset")
    model = ready(dataclasses.replace(experiment(), sampling=sampling), data, None)
    batch = next(iter(data.train.batches(256)))
    losses = model.task_losses(batch).stacked.numpy()
    outputs, _ = model.forward(batch)
    labels = batch["labels"].numpy()
    logit = outputs["ctr"]["logit"].numpy() + np.log(10)
    rows = np.logaddexp(0, logit) - labels[:, 0] * logit
    assert losses[0] == pytest.approx(rows.mean(), rel=1e-5)
    logit, weights = outputs["ctcvr"]["logit"].numpy(), np.where(labels[:, 0] > 0, 1, 10)
    rows = np.logaddexp(0, logit) - labels[:, 2] * logit
    assert losses[2] == pytest.approx(np.average(rows, weights=weights), rel=1e-5)
