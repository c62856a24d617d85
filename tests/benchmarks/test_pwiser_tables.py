"""PWiseR's tables: the noise, the grid, the pairing of arms, and what is judged."""

import dataclasses
import importlib
import json
import types

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import funnels, reproduce
from benchmarks.papers import pwiser as paper
from benchmarks.papers.pwiser import arms as arms
from tfmtl.declare.experiment import Model
from tfmtl.declare.problem import numerical
from tfmtl.simulator.impressions import impression_log
from tfmtl.simulator.world import draw_world
from tfmtl.tuning import tune

WEIGHT = "model.terms.0.weight"


@pytest.fixture(scope="module")
def log():
    return impression_log(draw_world(3, days=2), impressions=6_000, seed=3, days=2)


def test_a_fifth_of_the_logged_clicks_is_random_and_none_of_those_converts(log):
    noisy = arms.with_random_clicks(log, share=0.2, seed=1)
    click, clean = noisy["click"].to_numpy(), noisy["clean_click"].to_numpy()
    added = click > clean
    assert added.sum() / click.sum() == pytest.approx(0.2, abs=0.5 / click.sum())
    assert (click >= clean).all() and not noisy["conversion"].to_numpy()[added].any()
    assert clean.tolist() == log["click"].to_pylist()
    others = [name for name in log.column_names if name != "click"]
    assert noisy.select(others).equals(log.select(others))
    assert noisy.schema.field("click") == log.schema.field("click")


def test_random_clicks_are_a_function_of_log_share_and_seed_alone(log):
    first = arms.with_random_clicks(log, share=0.2, seed=1)
    np.random.seed(5)
    assert arms.with_random_clicks(log, share=0.2, seed=1).equals(first)
    assert not arms.with_random_clicks(log, share=0.2, seed=2).equals(first)
    assert arms.with_random_clicks(log, share=0.0, seed=1)["click"].equals(log["click"])


def test_random_clicks_fall_on_likely_and_unlikely_rows_alike(log):
    noisy = arms.with_random_clicks(log, share=0.5, seed=1)
    clean, true = noisy["clean_click"].to_numpy(), noisy["true_ctr"].to_numpy()
    free, added = clean == 0, noisy["click"].to_numpy() > clean
    error = true[free].std() / np.sqrt(added.sum())
    assert abs(true[added].mean() - true[free].mean()) < 4 * error
    assert true[clean == 1].mean() > true[free].mean() + 10 * error


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.99])
def test_a_share_that_cannot_be_reached_is_refused(log, share):
    with pytest.raises(ValueError, match=f"share={share}"):
        arms.with_random_clicks(log, share=share, seed=1)


def test_the_full_grid_holds_every_other():
    assert len(arms.FULL) == 5 * 4 * 4
    for smaller in (arms.REDUCED, arms.PRINTED):
        for path, candidates in smaller.space().items():
            assert set(candidates) <= set(arms.FULL.space()[path])
    assert len(arms.PRINTED) == 1


@pytest.mark.parametrize("model", arms.NETWORKS)
def test_both_losses_differ_in_the_term_alone(model):
    data, sizes = arms.DATA_SETS["simulated_ads"], arms.Sizes()
    plain, ranked = (arms.experiment(data, model, loss, 1, sizes) for loss in arms.LOSSES)
    (term,) = ranked.model.terms
    assert plain.model.terms == () and term["name"] == "pwiser"
    bare = dataclasses.replace(ranked.model, terms=())
    assert dataclasses.replace(ranked, name=plain.name, model=bare) == plain


def test_single_task_models_learn_clicks_and_see_conversions_in_the_term_alone():
    data = arms.DATA_SETS["simulated_ads"]
    for name, network in arms.NETWORKS.items():
        tasks = arms.problem(data, network).tasks
        multi = name in ("mmoe", "ple", "shared_bottom")
        assert [task.trained for task in tasks] == [True, multi]
        assert [task.label for task in tasks] == ["click", "conversion"]


def rows(seed, count=1_500):
    random = np.random.default_rng(seed)
    x, z = random.normal(size=(2, count)).astype(np.float32)
    click = random.random(count) < 1 / (1 + np.exp(1.5 - 2 * x))
    sale = click & (random.random(count) < 1 / (1 + np.exp(-z)))
    labels = {"klick": click.astype(np.float32), "kauf": sale.astype(np.float32)}
    return pa.table({"x": x, "z": z, **labels})


ASKED = []


def splits(seed, sizes, path):
    ASKED.append((seed, path))
    return {name: rows(10 * seed + i) for i, name in enumerate(("train", "validation", "test"))}


SHOP = arms.DataSet(
    name="shop",
    tables=splits,
    features=(numerical("x"), numerical("z")),
    click="klick",
    conversion="kauf",
    reads=True,
    model={"dim": 4},
    training={"batch_size": 256, "learning_rate": 1e-2},
)


def test_another_data_set_needs_its_declaration_alone_and_a_term_of_no_weight_changes_nothing():
    found = arms.study(SHOP, 1, arms.Sizes(epochs=1), {"shared_bottom": {WEIGHT: 0.0}})
    plain, ranked = found["shared_bottom"]["bce"], found["shared_bottom"]["pwiser"]
    # Same rows, initial weights and order: what differs is the term.
    assert plain == ranked
    assert plain["ctr/auc@imp"] > 0.7 and plain["ctcvr/auc@imp"] > 0.7
    assert list(found) == ["shared_bottom"]


@pytest.fixture
def trials(monkeypatch):
    """In place of a trial's training: a validation AUC that is best at one candidate alone."""
    best, tried = (0.1, 0.3, 0.1), []

    def train(experiment, data, **settings):
        (term,) = experiment.model.terms
        tried.append((term["weight"], term["margin_click"], term["margin_no_click"]))
        if broken == len(tried):
            raise FloatingPointError("this trial diverged")
        value = 0.7 - sum(abs(a - b) for a, b in zip(tried[-1], best, strict=True))
        return types.SimpleNamespace(history=[{"val_ctr/auc@imp": value}], best_epoch=0)

    broken = 0

    def breaks(trial):
        nonlocal broken
        broken = trial

    monkeypatch.setattr(tune, "train", train)
    return types.SimpleNamespace(best=best, tried=tried, breaks=breaks)


def test_every_candidate_of_the_grid_is_tried_once_and_the_best_on_validation_is_taken(trials):
    found = arms.search(SHOP, ["dnn"], arms.Sizes(), arms.REDUCED)
    assert tuple(found["dnn"].values()) == trials.best
    assert len(trials.tried) == len(set(trials.tried)) == len(arms.REDUCED)


def test_a_grid_with_a_trial_that_failed_is_no_result(trials):
    trials.breaks(3)
    with pytest.raises(RuntimeError, match="7 of 8 trials"):
        arms.search(SHOP, ["dnn"], arms.Sizes(), arms.REDUCED)


@pytest.mark.slow
def test_the_search_takes_what_ranks_validation_clicks_best_on_rows_of_no_table():
    ASKED.clear()
    grid = arms.Grid(weight=(5_000.0, 0.0), margin_click=(0.3,), margin_no_click=(0.3,))
    found = arms.search(SHOP, ["dnn"], arms.Sizes(epochs=1), grid)
    assert found["dnn"][WEIGHT] == 0.0 and set(found["dnn"]) == set(grid.space())
    assert ASKED == [(arms.TUNING_SEED, None)] and arms.TUNING_SEED not in range(100)


def test_a_grid_of_one_candidate_is_not_searched():
    ASKED.clear()
    found = arms.search(SHOP, ["dnn", "ple"], arms.Sizes(), arms.PRINTED)
    assert not ASKED and found["ple"] == found["dnn"]
    assert found["dnn"][WEIGHT] == 0.1


def test_what_was_chosen_reaches_the_term():
    tuned = {path: values[-1] for path, values in arms.FULL.space().items()}
    built = arms.experiment(SHOP, "dnn", "pwiser", 1, arms.Sizes(), tuned)
    (term,) = built.model.terms
    assert (term["weight"], term["margin_click"], term["margin_no_click"]) == (1.0, 0.5, 0.5)
    assert isinstance(built.model, Model)


def test_the_printed_cells_are_twenty_of_clicks_of_which_four_fall():
    cells = [cell for cell in paper.public_cells() if cell.metric == paper.AUC]
    assert len(cells) == 20
    assert sum(cell.value < 0 for cell in cells) == 4
    assert max(abs(cell.value) for cell in cells) < 0.0031


def test_public_cells_are_judged_where_rows_are_at_hand_and_ctcvr_nowhere():
    judged = [c for c in paper.public_cells({"ali_ccp"}) if not c.not_comparable]
    assert {cell.run["data"] for cell in judged} == {"ali_ccp"} and len(judged) == 5
    assert {cell.metric for cell in judged} == {paper.AUC}
    assert not [c for c in paper.public_cells() if not c.not_comparable]


@pytest.fixture
def measured(monkeypatch):
    """In place of training: the term adds .01, and a thousandth a seed; conversions lose."""
    asked = []

    def study(data, seed, sizes, tuned, path, *, rows, trained):
        asked.append((data.name, seed, path))
        plain = {paper.AUC: 0.7, paper.CTCVR: 0.8}
        ranked = {paper.AUC: 0.71 + seed / 1000, paper.CTCVR: 0.79}
        return {model: {"bce": plain, "pwiser": ranked} for model in tuned}

    def search(data, models, sizes, grid, path, *, trained):
        return {model: {WEIGHT: 0.5} for model in models}

    monkeypatch.setattr(arms, "study", study)
    monkeypatch.setattr(arms, "search", search)
    paper._levels.cache_clear()
    paper._chosen.cache_clear()
    yield asked
    paper._levels.cache_clear()
    paper._chosen.cache_clear()


def printed(capsys, *argv):
    assert reproduce.reproduce(["pwiser", "--json", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def test_the_difference_of_the_same_seed_is_held_against_the_paper_s(measured, capsys):
    found = printed(capsys, "--seeds", "3")
    seeds = [seed for name, seed, _ in measured if name == "simulated_ads"]
    assert list(dict.fromkeys(seeds)) == [0, 1, 2] and len(seeds) == 3 * len(arms.NETWORKS)
    row = found["Table 4, mean of four: mmoe/ctr/auc@imp"]
    assert row["ours"] == pytest.approx(0.011) and row["reproduces"] is True
    assert row["seeds_with_the_sign"] == "3/3"
    assert row["published"] == pytest.approx(0.0006875)
    assert found["Table 4, mean of four: mmoe/ctcvr/auc@imp"]["reproduces"] is None
    assert found["simulated_ads/ple/ctcvr/auc@imp, change"]["ours"] == pytest.approx(-0.01)
    assert found["simulated_ads/ple/weight, chosen"]["ours"] == 0.5
    assert "--data" in found["census_income"]["note"] and found["census_income"]["ours"] is None


def test_a_data_set_with_a_reader_judges_its_cells_without_new_code(
    measured, capsys, monkeypatch, tmp_path
):
    shop = dataclasses.replace(SHOP, name="aliexpress_us")
    monkeypatch.setattr(arms, "DATA_SETS", {**arms.DATA_SETS, shop.name: shop})
    (tmp_path / shop.name).mkdir()
    found = printed(capsys, "--seeds", "2", "--data", str(tmp_path))
    us, fr = (f"Table 4, aliexpress_{country}: mmoe/ctr/auc@imp" for country in ("us", "fr"))
    assert found[us]["reproduces"] is False and found[us]["published"] == "71.214 → 71.158"
    assert found[fr]["reproduces"] is None and found[fr]["ours"] is None
    assert ("aliexpress_us", 0, str(tmp_path / shop.name)) in measured


def test_kept_figures_are_read_again_and_an_unknown_grid_is_refused(measured, capsys, tmp_path):
    argv = ["--seeds", "2", "--keep", str(tmp_path)]
    first = printed(capsys, *argv)
    paper._levels.cache_clear()
    paper._chosen.cache_clear()
    measured.clear()
    assert printed(capsys, *argv) == first and not measured
    assert reproduce.reproduce(["pwiser", "--grid", "fall"]) == 2


def test_the_census_is_made_a_funnel_by_definition():
    income, marriage = importlib.import_module("pipeline.configs.census_income").PROBLEM.tasks
    married = ["Never married", "Divorced", "Divorced", "Never married"]
    earns = ["50000+.", "50000+.", "- 50000.", "- 50000."]
    table = funnels.with_funnel(pa.table({income.label: earns, marriage.label: married}))
    assert table["married"].to_pylist() == [0, 1, 1, 0]
    assert table["married_and_earns"].to_pylist() == [0, 1, 0, 0]


@pytest.mark.slow
def test_the_quick_run_trains_every_cell(capsys):
    paper._levels.cache_clear()
    paper._chosen.cache_clear()
    found = printed(capsys, "--quick")
    for model in arms.NETWORKS:
        assert 0.5 < found[f"simulated_ads/{model}/bce/ctr/auc@imp"]["ours"] < 1
        assert found[f"simulated_ads/{model}/ctr/auc@imp, change"]["ours"] != 0
