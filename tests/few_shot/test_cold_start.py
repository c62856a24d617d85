"""Held-out groups: what adapting to k of their rows is worth on their other rows."""

import itertools
import json

import numpy as np
import pytest

import tfmtl
from tests.doubles.worlds import PROBLEM as WHOLE
from tests.doubles.worlds import experiment, packed
from tfmtl.declare.experiment import Model
from tfmtl.declare.features import FIRST
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec, binary, categorical, regression
from tfmtl.errors import DataError, SpecError
from tfmtl.features.rows import ArrayRows
from tfmtl.few_shot import cold_start as module
from tfmtl.few_shot.adapt import FewShot
from tfmtl.few_shot.cold_start import cold_start
from tfmtl.few_shot.draws import draws_of
from tfmtl.few_shot.report import ColdStart
from tfmtl.few_shot.resamples import counts_of, interval_of, resampled_metrics
from tfmtl.metrics.packed import packed_metrics, predict_packed
from tfmtl.metrics.tasks import group_auc, task_metrics
from tfmtl.model.multitask import MultiTaskModel

PROBLEM = ProblemSpec(
    features=(categorical("kind", encoding="identity", size=2, dim=2),),
    tasks=(binary("ctr", label="click"), regression("stars", label="stars")),
)
FAST = {"draws": 1, "samples": 50, "verbose": 0}


def world(groups=12, rows=80, seed=0):
    """Groups with a rate and a rating of their own, which no feature tells."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    kind = rng.integers(0, 2, groups * rows)
    rate = np.linspace(0.05, 0.95, groups)[group]
    labels = np.stack([rng.random(len(group)) < rate, 4 * rate + rng.normal(size=len(group))], 1)
    packed_rows = {
        "ids_context": (kind + FIRST)[:, None],
        LABELS: labels.astype(np.float32),
        WEIGHTS: np.ones((len(group), 2), np.float32),
    }
    return packed_rows, np.char.add("advertiser ", group.astype(str))


def model_of(seed=0, **network):
    """Weights as they are drawn: nobody knows anything of the groups yet."""
    import tf_keras as keras

    keras.utils.set_random_seed(seed)
    network = {"backbone": {"name": "shared_bottom", "bottom_units": ()}, **network}
    model = MultiTaskModel.build_from(
        PROBLEM, {"kind": 2 + FIRST}, Model(**{"dim": 2, "tower_units": (), "l2": 0.0, **network})
    )
    model({name: value[:2] for name, value in ArrayRows(world()[0]).tensors.items()})
    return model


def of_all_tasks(**changes):
    changes = {"backbone": {"name": "shared_bottom", "bottom_units": (8,)}, "dim": 4, **changes}
    preprocessor, data = packed(96, 240)
    model = MultiTaskModel.build_from(WHOLE, preprocessor.table_rows(), experiment(**changes).model)
    model(next(iter(data.validation.batches(4))))
    return model, data.validation, np.arange(240) % 6


def values_of(report, metric, model=None):
    return [shots.value.value for shots in report.curve(metric, model)]


@pytest.fixture
def spied(monkeypatch):
    """Every adaptation that a report asks for: model, support, query."""
    seen = []

    class Spy(FewShot):
        def __call__(self, support, query):
            seen.append((self.model, support.tolist(), query.tolist()))
            return {task: np.full(len(query), 0.5) for task in ("ctr", "stars")}

    monkeypatch.setattr(module, "FewShot", Spy)
    return seen


def test_without_support_every_metric_is_the_models_own_on_the_query_rows():
    model, rows, groups = of_all_tasks()
    report = cold_start(model, rows, groups, meta=Meta(inner_rate=0.1), ks=(0, 2), **FAST)
    drawn, _ = draws_of(groups, most=2, min_query=10, draws=1, seed=0)
    query = np.concatenate([draw.query for (draw,) in drawn])
    judged = ArrayRows({name: value.numpy()[query] for name, value in rows.tensors.items()})
    plain = packed_metrics(WHOLE, predict_packed(model, judged.batches(4096)))
    compared = [name for name in report.metrics if "group_auc" not in name]
    assert {"ctr/auc@imp", "cvr/log_loss@click", "ctcvr/ne@imp", "cqs/r2@imp"} <= set(compared)
    for name in compared:
        assert values_of(report, name)[0] == pytest.approx(plain[name], rel=1e-7), name
    assert report.rows == 240 - 6 * 2 and report.groups == 6


def test_predictions_without_support_are_the_models_bit_for_bit():
    model, rows = model_of(), ArrayRows(world(groups=3)[0])
    few_shot = FewShot(model, Meta(inner_rate=0.1), rows)
    found = few_shot(np.array([], np.int32), np.arange(240, dtype=np.int32))
    plain = predict_packed(model, rows.batches(4096)).predictions
    assert all(np.array_equal(found[task], plain[task]) for task in plain)


def test_weights_and_moments_are_afterwards_bit_for_bit_as_before():
    model, rows, groups = of_all_tasks(tower_batch_norm=True, tower_dropout=0.5)
    before = [w.numpy().copy() for w in model.weights]
    meta = Meta(inner_rate=0.3, inner_params="all")
    report = cold_start(model, rows, groups, meta=meta, ks=(7,), **FAST)
    assert all(np.array_equal(w.numpy(), b) for w, b in zip(model.weights, before, strict=True))
    assert values_of(report, "ctr/log_loss@imp")[1] != values_of(report, "ctr/log_loss@imp")[0]


def test_adapting_is_a_step_down_the_loss_of_the_support_rows():
    raw, _ = world()
    model, rows = model_of(), ArrayRows(raw)
    support, query = np.arange(6, dtype=np.int32), np.arange(90, 100, dtype=np.int32)
    kernel, bias = (v.numpy() for v in model.heads.logits["ctr"].weights)
    fields = model.embedding.embed(rows.tensors)[0].numpy()[:, 0]

    def rate_at(kernel, bias, places):
        return 1 / (1 + np.exp(-(fields[places] @ kernel + bias)[:, 0]))

    error = rate_at(kernel, bias, support) - raw[LABELS][support, 0]
    # The loss is the mean of two tasks', and the other one's does not read this logit.
    kernel = kernel - 0.7 / 2 * (fields[support] * error[:, None]).mean(0)[:, None]
    bias = bias - 0.7 / 2 * error.mean()
    found = FewShot(model, Meta(inner_rate=0.7), rows)(support, query)["ctr"]
    assert found == pytest.approx(rate_at(kernel, bias, query), rel=1e-5)


def test_a_model_is_traced_once_whatever_the_group_and_k():
    raw, _ = world()
    few_shot = FewShot(model_of(), Meta(inner_rate=0.1), ArrayRows(raw))
    for k, judged in itertools.product((0, 1, 5, 30), (3, 40)):
        few_shot(np.arange(k, dtype=np.int32), np.arange(100, 100 + judged, dtype=np.int32))
    for traced in (few_shot._plain, few_shot._adapted):
        assert traced.experimental_get_tracing_count() == 1


def test_query_rows_are_never_among_the_support_nor_of_another_group(spied):
    raw, groups = world()
    cold_start(model_of(), ArrayRows(raw), groups, meta=Meta(), ks=(0, 2, 9), **FAST)
    assert len(spied) == 12 * 3
    for _, support, query in spied:
        assert not set(support) & set(query) and len(query) == 71
        assert len({groups[row] for row in support + query}) == 1


def test_supports_are_nested_and_the_query_is_the_same_for_every_k(spied):
    raw, groups = world()
    cold_start(model_of(), ArrayRows(raw), groups, meta=Meta(), ks=(9, 2, 0), **FAST)
    for at in range(0, len(spied), 3):
        (_, none, first), (_, few, second), (_, most, third) = spied[at : at + 3]
        assert first == second == third
        assert none == [] and few == most[:2] and len(most) == 9


def test_two_models_get_the_same_draws(spied):
    raw, groups = world()
    models = {"one": model_of(1), "two": model_of(2)}
    report = cold_start(models, ArrayRows(raw), groups, meta=Meta(), ks=(3,), **FAST)
    halves = {
        name: [call[1:] for call in spied if call[0] is model] for name, model in models.items()
    }
    assert halves["one"] == halves["two"] and len(halves["one"]) == 24
    for first, second in zip(
        report.curve("ctr/auc@imp", "one"), report.curve("ctr/auc@imp", "two"), strict=True
    ):
        assert first.difference is None
        assert second.difference.value == second.value.value - first.value.value == 0.0


def test_what_groups_differ_in_is_learnt_from_their_rows():
    raw, groups = world()
    meta = Meta(inner_rate=1.5, inner_steps=4)
    report = cold_start(
        model_of(), ArrayRows(raw), groups, meta=meta, ks=(0, 1, 5, 50), samples=50, verbose=0
    )
    loss = values_of(report, "ctr/log_loss@imp")
    assert loss[3] < loss[2] < loss[0] and loss[3] < 0.85 * loss[0]
    assert report.curve("ctr/log_loss@imp")[3].change.high < 0
    error = values_of(report, "stars/mse@imp")
    assert error[3] < 0.7 * error[0]
    # The order within a group is nothing that k rows of noise could teach.
    assert abs(report.curve("ctr/group_auc@imp")[3].value.value - 0.5) < 0.05


def test_a_rate_of_zero_changes_nothing():
    raw, groups = world()
    report = cold_start(model_of(), ArrayRows(raw), groups, meta=Meta(inner_rate=0.0), **FAST)
    assert {s.change.value for s in report.shots} == {0.0}
    assert {(s.change.low, s.change.high) for s in report.shots} == {(0.0, 0.0)}


def test_models_may_adapt_at_rates_of_their_own():
    raw, groups = world()
    model = model_of()
    models, meta = {"still": model, "moved": model}, Meta(inner_rate=0.3)
    settings = {"still": Meta(inner_rate=0.0), "moved": meta}
    report = cold_start(models, ArrayRows(raw), groups, meta=settings, ks=(20,), **FAST)
    still, moved = (report.curve("ctr/log_loss@imp", name) for name in models)
    assert still[1].change.value == 0.0 and moved[1].change.value < 0
    assert moved[0].difference.value == 0.0
    assert moved[1].difference.value == pytest.approx(moved[1].change.value)
    assert report.settings["moved"] == {"rate": 0.3, "steps": 1, "params": "no_embedding"}


def test_the_order_of_groups_does_not_matter():
    raw, groups = world(groups=5)
    order = np.concatenate([np.flatnonzero(groups == f"advertiser {i}") for i in (3, 0, 4, 2, 1)])
    turned = {name: value[order] for name, value in raw.items()}
    model, meta = model_of(), Meta(inner_rate=0.2)
    first, second = (
        cold_start(model, ArrayRows(rows), keys, meta=meta, ks=(4,), **FAST)
        for rows, keys in ((raw, groups), (turned, groups[order]))
    )
    for one, other in zip(first.shots, second.shots, strict=True):
        assert one.value.value == pytest.approx(other.value.value, rel=1e-6)
        assert one.change.low == pytest.approx(other.change.low, abs=1e-7)


def test_another_group_leaves_a_groups_draw_as_it_was():
    _, groups = world(groups=3)
    arguments = {"most": 5, "min_query": 1, "draws": 2, "seed": 4}
    three, _ = draws_of(groups, **arguments)
    two, _ = draws_of(groups[:160], **arguments)
    for mine, its in zip(itertools.chain(*two), itertools.chain(*three[:2]), strict=True):
        assert mine.support.tolist() == its.support.tolist()
    assert three[0][0].support.tolist() != three[0][1].support.tolist()
    assert (three[0][0].support % 80).tolist() != (three[1][0].support % 80).tolist()


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_resamples_are_of_whole_groups(kind):
    rng = np.random.default_rng(3)
    groups = np.array([0] * 5 + [1] * 9 + [2] * 7 + [3] * 8)
    labels = rng.integers(0, 2, 29) if kind == "binary" else rng.normal(3, 2, 29)
    predictions = rng.choice([0.2, 0.4, 0.5, 0.9], 29)
    counts = counts_of(4, samples=40, seed=1)
    assert (counts[0] == 1).all() and (counts.sum(axis=1) == 4).all()
    found = resampled_metrics(kind, labels, predictions, groups, counts)
    for at, drawn in enumerate(counts):
        rows = np.concatenate([np.flatnonzero(groups == g).repeat(int(drawn[g])) for g in range(4)])
        plain = task_metrics(kind, labels[rows], predictions[rows])
        if kind == "binary":
            plain["group_auc"] = group_auc(labels[rows], predictions[rows], groups[rows]).mean()
        for name, values in found.items():
            assert values[at] == pytest.approx(plain[name], nan_ok=True), (name, at)


def test_one_group_has_a_value_and_no_interval():
    counts = counts_of(3, samples=30, seed=0)
    labels, predictions = np.array([0, 1, 1]), np.array([0.3, 0.2, 0.8])
    found = resampled_metrics("binary", labels, predictions, np.array([1, 1, 1]), counts)
    interval = interval_of(found["auc"])
    assert interval.value == 0.5 and np.isnan([interval.low, interval.high]).all()


def test_two_draws_of_a_group_are_not_compared_within_it():
    labels, predictions = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    counts = counts_of(1, samples=1, seed=0)
    found = [
        resampled_metrics("binary", labels, predictions, np.zeros(4, int), counts, parts)
        for parts in (None, np.array([0, 0, 1, 1]))
    ]
    assert [f["group_auc"][0] for f in found] == [0.75, 1.0]


def test_groups_with_too_few_rows_are_named():
    raw, groups = world(groups=4, rows=40)
    rows = {name: value[:130] for name, value in raw.items()}
    report = cold_start(
        model_of(), ArrayRows(rows), groups[:130], meta=Meta(), ks=(25,), min_query=15, **FAST
    )
    assert report.left_out == {"advertiser 3": 10} and report.groups == 3
    assert "1 group with fewer than 40 rows, 10 rows together: advertiser 3 (10)" in str(report)


def test_a_report_survives_json_and_is_drawn_and_tabled(tmp_path):
    raw, groups = world()
    models = {"plain": model_of(1), "meta": model_of(2)}
    report = tfmtl.cold_start(models, ArrayRows(raw), groups, meta=Meta(), ks=(1, 5), **FAST)
    assert ColdStart.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    frame = report.to_frame()
    assert len(frame) == 2 * 3 * 10 and {"value", "value_low", "change", "difference"} <= set(frame)
    lines = str(report).splitlines()
    assert lines[0].split() == "ctr/auc@imp k value [95%] against k=0 against plain".split()
    assert [line.split()[:2] for line in lines[1:7]] == [
        [name, k] for name in ("plain", "meta") for k in ("0", "1", "5")
    ]
    figure = tfmtl.draw_cold_start(report, str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert [axis.get_title() for axis in figure.axes][:2] == ["ctr/auc@imp", "ctr/group_auc@imp"]
    lines = figure.axes[0].get_lines()
    assert lines[1].get_ydata().tolist() == values_of(report, "ctr/auc@imp", "meta")


def test_what_cannot_be_measured_is_refused():
    raw, groups = world(groups=3, rows=20)
    model, rows = model_of(), ArrayRows(raw)

    def call(models=model, rows=rows, groups=groups, meta=None, **more):
        return cold_start(models, rows, groups, meta=Meta() if meta is None else meta, **more)

    with pytest.raises(DataError, match=r"one key a row, shape \(60,\); got shape \(59,\)"):
        call(groups=groups[1:])
    with pytest.raises(DataError, match="largest of 3 groups has 20 rows. Lower ks"):
        call(ks=(0, 50))
    with pytest.raises(DataError, match="1 of 60 keys are missing"):
        call(groups=[None, *groups[1:]], ks=(1,))
    with pytest.raises(SpecError, match="'model' is a str; only a MultiTaskModel"):
        call(models="folder/model")
    with pytest.raises(SpecError, match="no weights yet"):
        call(models=MultiTaskModel.build_from(PROBLEM, {"kind": 4}, Model(tower_units=())))
    with pytest.raises(DataError, match="no labels among the packed rows"):
        call(rows=ArrayRows({"ids_context": raw["ids_context"]}))
    with pytest.raises(SpecError, match="different problems"):
        call(models={"one": model, "all": of_all_tasks()[0]})
    with pytest.raises(SpecError, match="names 'modle'.*Did you mean 'model'"):
        call(meta={"modle": Meta()})
    with pytest.raises(SpecError, match="whole numbers from 0"):
        call(ks=(0, -1))
    with pytest.raises(FloatingPointError, match="a lower rate"):
        call(meta=Meta(inner_rate=1e38, inner_steps=2), ks=(5,), **FAST)
