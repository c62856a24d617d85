"""AutoMTL's tables: what is printed, what sets arms apart, what is selected on, the verdicts."""

import dataclasses
import importlib
import json

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from benchmarks import funnels, reproduce
from benchmarks.paper import Further, Measured
from benchmarks.papers.automtl import arms as arms
from tests.doubles.differences import differing
from tfmtl.automtl.derive import derive, sample
from tfmtl.automtl.found import Found
from tfmtl.declare.layout import LABELS
from tfmtl.declare.problem import binary, numerical
from tfmtl.declare.search import AutoMTL
from tfmtl.metrics.tasks import auc
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS

paper = importlib.import_module("benchmarks.papers.automtl")
# The package also has a function `cells`, which hides the module from `from … import`.
published_cells = importlib.import_module("benchmarks.papers.automtl.cells")
SIMULATED, FOUR = arms.DATA_SETS["simulated_ads"], arms.DATA_SETS["simulated_ads_4"]


def test_the_tables_are_as_printed():
    three, five = published_cells.TABLE_3, published_cells.TABLE_5
    assert three["user_behavior"]["mmoe"] == (0.7255, 0.7276, 0.7077, 0.8393)
    assert three["user_behavior"]["automtl"] == (0.7275, 0.7323, 0.7085, 0.8465)
    assert three["user_behavior"]["random"][3] == 0.844
    assert three["ijcai"]["single_task"] == (0.7691, 0.8509)
    assert three["aliexpress_nl"]["mmoe"] == (0.7218, 0.8565)
    assert three["aliexpress_es"]["cgc"] == (0.7268, 0.8881)
    assert three["aliexpress_fr"]["single_task"] == (0.7266, 0.8707)
    assert three["aliexpress_us"]["automtl"] == (0.7152, 0.8880)
    assert five["user_behavior"]["without_selection"] == (0.7235, 0.7274, 0.7034, 0.8428)
    assert five["ijcai"]["without_oles"] == (0.7672, 0.8501)
    assert five["aliexpress_nl"]["homogeneous"] == (0.7313, 0.8607)
    assert published_cells.TABLE_4["aliexpress_es"] == (18.0, 2.2)


def test_automtl_is_printed_as_the_best_everywhere_and_each_variant_as_worse():
    for table in (published_cells.TABLE_3, published_cells.TABLE_5):
        for data, rows in table.items():
            best = published_cells.TABLE_3[data]["automtl"]
            for row, values in rows.items():
                assert len(values) == len(best)
                assert row == "automtl" or all(a > b for a, b in zip(best, values, strict=True))
    tasks = [len(rows["automtl"]) for rows in published_cells.TABLE_3.values()]
    assert tasks == [4, 2, 2, 2, 2, 2]


def test_a_data_set_of_ours_stands_for_the_paper_s_with_as_many_tasks():
    found = {cell.name: cell for cell in paper.cells_of("simulated_ads_4", arms.FULL)}
    # User behaviour alone has four tasks; the mean of its four differences.
    row = found["Table 3, simulated_ads_4: automtl less mmoe/mean_auc"]
    assert row.value == pytest.approx((0.0020 + 0.0047 + 0.0008 + 0.0072) / 4, abs=1e-5)
    row = found["Table 5, simulated_ads_4: without_selection less automtl/mean_auc"]
    assert row.value == pytest.approx(-(0.0040 + 0.0049 + 0.0051 + 0.0037) / 4, abs=1e-5)
    two = {cell.name: cell for cell in paper.cells_of("simulated_ads", arms.FULL)}
    row = two["Table 5, simulated_ads: without_aux less automtl/mean_auc"]
    # IJCAI's and the Netherlands'.
    assert row.value == pytest.approx(-(0.0044 + 0.0040 + 0.0034 + 0.0048) / 4, abs=1e-5)
    # The row "w/o OLES" has DARTS−, and its name says DARTS: both are held against it.
    values = {two[f"Table 5, simulated_ads: {a} less automtl/mean_auc"].value for a in DARTS}
    assert len(values) == 1 and max(values) < 0
    assert {cell.rule for cell in two.values() if not cell.not_comparable} == {"sign"}
    (other,) = [cell for cell in two.values() if cell.not_comparable]
    assert other.name.startswith("Table 4") and other.value == pytest.approx((18 / 2.2, 9.09), 1e-2)
    assert {cell.name for cell in reproduce.load("automtl").cells} < set(two)


DARTS = ("darts", "darts_minus")


def plain(data, arm, sizes=arms.FULL):
    return json.loads(arms.experiment(data, arm, 3, sizes).to_json())


@pytest.mark.parametrize("data", arms.DATA_SETS.values(), ids=arms.DATA_SETS)
def test_a_variant_differs_from_automtl_in_what_its_name_says_alone(data):
    ours = plain(data, "automtl")
    changed = {
        "random": ["algorithm", "n_chosen"],
        "without_interaction": ["interaction"],
        "homogeneous": ["heterogeneous"],
        "without_selection": ["n_chosen", "selection"],
        "without_aux": ["aux_weight"],
        "darts": ["stopping"],
        "darts_minus": ["auxiliary_skip", "stopping"],
    }
    assert {*changed, "automtl"} == set(arms.SEARCHES)
    for arm, fields in changed.items():
        wanted = ["name", *(f"search.{field}" for field in fields)]
        assert differing(ours, plain(data, arm)) == wanted, arm
    assert plain(data, "without_aux")["search"]["aux_weight"] == 0
    assert plain(data, "darts")["search"]["stopping"] == "none"


@pytest.mark.parametrize(
    "sizes", [arms.FULL, arms.REDUCED, arms.QUICK], ids=["full", "reduced", "quick"]
)
def test_designed_networks_differ_in_the_backbone_alone_and_all_train_alike(sizes):
    for arm in arms.BASELINES:
        others = differing(plain(SIMULATED, "mmoe", sizes), plain(SIMULATED, arm, sizes))
        assert [n for n in others if n != "name" and not n.startswith("model.backbone.")] == []
        network = arms.experiment(SIMULATED, arm, 3, sizes)
        search = arms.experiment(SIMULATED, "automtl", 3, sizes)
        assert network.training == search.training and network.search is None
        assert (network.training.learning_rate, network.training.patience) == (1e-3, 2)
        assert (network.training.optimizer, network.training.seed) == ("adam", 3)
        assert tuple(search.search.tower_units) == tuple(network.model.tower_units) == (64,)
    mmoe, ple = (plain(SIMULATED, arm, sizes)["model"]["backbone"] for arm in ("mmoe", "ple"))
    assert mmoe["num_experts"] == sizes.num_experts == ple["num_shared"] + ple["num_specific"]
    assert [width for level in ple["expert_units"] for width in level] == mmoe["expert_units"]


def test_the_full_search_is_of_the_whole_space_and_the_paper_s_settings():
    declared = arms.experiment(SIMULATED, "automtl", 1, arms.FULL).search
    printed = (8, 0.01, 1e-3, 0.1, 0.5, "consecutive")
    assert printed == (
        declared.num_experts,
        declared.learning_rate,
        declared.architecture_rate,
        declared.aux_weight,
        declared.threshold,
        declared.stopping,
    )
    assert declared.interactions is declared.poolings is declared.hidden is None
    assert arms.default_count(SIMULATED, arms.FULL) == 4
    assert arms.default_count(FOUR, arms.FULL) == 3


def test_one_search_gives_the_network_of_every_number_of_experts():
    random = np.random.default_rng(1)
    alphas = {
        "interaction": random.normal(size=13),
        "pooling": random.normal(size=(8, 4)),
        "hidden": random.normal(size=(8, 3, 13)),
    }
    beta = random.normal(size=(2, 8))
    whole = derive(AutoMTL(n_chosen=8), alphas, beta, ["ctr", "ctcvr"])
    for count in range(1, 9):
        direct = derive(AutoMTL(n_chosen=count), alphas, beta, ["ctr", "ctcvr"])
        assert arms.choosing(whole, count) == direct


def rows(seed, count=400):
    random = np.random.default_rng(seed)
    x = random.normal(size=count).astype(np.float32)
    like = random.random(count) < 1 / (1 + np.exp(-2 * x))
    cart = random.random(count) < 1 / (1 + np.exp(2 * x))
    found = {"x": x, "like": like.astype(np.float32), "cart": cart.astype(np.float32)}
    return pa.table({**found, "true": 1 / (1 + np.exp(-2 * x))})


SHOP = arms.DataSet(
    rows=funnels.DataSet(
        name="shop",
        tables=lambda seed, sizes, path: {
            name: rows(10 * seed + i) for i, name in enumerate(("train", "validation", "test"))
        },
        features=(numerical("x"),),
        true={"like": "true"},
        reads=True,
    ),
    tasks=(binary("like", label="like"), binary("cart", label="cart")),
)
TINY = dataclasses.replace(arms.QUICK, batch_size=40, epochs=3)


def test_training_and_search_never_see_the_test_rows_and_figures_are_of_those(monkeypatch):
    seen, train = [], arms.train

    def noted(experiment, data, verbose):
        splits = (data.train, data.validation)
        seen.append([split.tensors[LABELS].numpy() for split in splits])

    def search(experiment, data, verbose):
        noted(experiment, data, verbose)
        tasks = experiment.problem.task_names
        found = sample(np.random.default_rng(1), experiment.search, tasks)
        return Found(found, found.apply(experiment), [{"trial": 0}], {"cpu_seconds": 2.0})

    def trained(experiment, data, verbose):
        noted(experiment, data, verbose)
        return train(experiment, data, verbose=verbose)

    monkeypatch.setattr(arms, "search", search)
    monkeypatch.setattr(arms, "train", trained)
    ready, test = arms.ready(SHOP, 1, TINY, None)
    found = arms.searched(SHOP, "random", 1, TINY, ready)
    assert arms.standing(found, None) == {"search_cpu": 2.0}
    declared = arms.experiment(SHOP, "shared_bottom", 1, TINY)
    figures = arms.trained(SHOP, declared, ready, test)
    tables = SHOP.rows.tables(1, TINY, None)
    assert len(seen) == 2
    for labels in seen:
        for packed, split in zip(labels, ("train", "validation"), strict=True):
            np.testing.assert_array_equal(packed[:, 0], tables[split]["like"].to_numpy())
    # One input, which says all: whatever the network, the order is the input's.
    order = {"like": test["x"].to_numpy(), "cart": -test["x"].to_numpy()}
    for task, scores in order.items():
        wanted = auc(test[task].to_numpy(), scores)
        assert figures[f"{task}/auc@imp"] == pytest.approx(wanted, abs=0.02)
    aucs = [figures[f"{task}/auc@imp"] for task in order]
    assert figures["mean_auc"] == pytest.approx(sum(aucs) / 2)
    # 1·8 of the numbers' field is left out; (8·16 + 16) + (16·8 + 8), and towers of (64, 1).
    assert figures["parameters"] == 144 + 136 + 2 * (8 * 64 + 64 + 64 + 1)
    assert {"like/auc_true@imp", "mtl_loss", "validation_loss", "epochs"} < set(figures)


@pytest.fixture
def measured(monkeypatch):
    """In place of searches and trainings: AutoMTL is the best, without its loss by a seed's luck.

    Its choices are further apart with the loss, DARTS ends in skips, and DARTS− does not.
    """
    asked = []

    def searched(data, arm, seed, sizes, ready):
        asked.append((data.name, arm, seed))
        declared = arms.experiment(data, arm, seed, sizes).search
        tasks = [task.name for task in data.tasks]
        architecture = sample(np.random.default_rng(seed), declared, tasks)
        apart = 2.0 if arm == "automtl" else 1.0
        if arms.narrows(arm):
            names = enumerate(architecture.tasks.items())
            weighed = {
                task: dataclasses.replace(
                    selection, beta=(np.eye(declared.num_experts)[k] / 2 * apart).tolist()
                )
                for k, (task, selection) in names
            }
            architecture = dataclasses.replace(architecture, tasks=weighed)
        skips = {"darts": 4}.get(arm, 1)
        weights = [1 / declared.num_experts] * declared.num_experts
        history = [
            {
                "epoch": epoch,
                "n_skip": skips * epoch + seed,
                "n_blocks": 9,
                "selection": dict.fromkeys(tasks, weights),
                "frozen": ["hidden_0/mlp-16/0"],
                "difference": {"hidden_0/mlp-16/0": 0.5, "hidden_0/mlp-16/1": None},
            }
            for epoch in range(2)
        ]
        budget = {"cpu_seconds": 30.0 + seed}
        return {"architecture": architecture.to_json(), "history": history, "budget": budget}

    def trained(data, declared, ready, test):
        arm = declared.name.removeprefix(f"{data.name}_")
        seed = declared.training.seed
        asked.append((data.name, arm, seed))
        place = arms.ARMS.index(arm)
        level = 0.7 - place / 1e3 + seed / 100
        level += {"automtl": 0.05 + seed / 1e4, "without_aux": 0.049 + (-1) ** seed / 1e2}.get(
            arm, 0.0
        )
        chosen = declared.model.backbone.get("chosen", {"": [0] * 3})
        count = len(next(iter(chosen.values())))
        each = {f"{task.name}/auc@{data.rows.space}": level for task in data.tasks}
        loss = 0.2 + (count - 3) ** 2 / 100 + seed / 1e3
        return {**each, "mean_auc": level, "mtl_loss": loss, "train_cpu": 3.0}

    monkeypatch.setattr(arms, "searched", searched)
    monkeypatch.setattr(arms, "trained", trained)
    monkeypatch.setattr(arms, "ready", lambda data, seed, sizes, path: (None, None))
    paper._seed.cache_clear()
    yield asked
    paper._seed.cache_clear()


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take seconds."""
    drawn = Further(name="pictures", ours=Measured(values=[0.0]))
    monkeypatch.setattr(paper, "_pictures", lambda *args: drawn)


def printed(capsys, *argv):
    assert reproduce.reproduce(["automtl", "--json", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def test_signs_of_paired_differences_are_judged_and_what_disagrees_is_said(
    measured, capsys, tmp_path
):
    found = printed(capsys, "--seeds", "3", "--keep", str(tmp_path))
    row = found["Table 3, simulated_ads: automtl less ple/mean_auc"]
    assert row["reproduces"] is True and row["seeds_with_the_sign"] == "3/3"
    assert row["ours"] == pytest.approx(0.05 - 0.002 + 0.0001)
    # A seed's luck is no difference.
    row = found["Table 5, simulated_ads_4: without_aux less automtl/mean_auc"]
    assert row["reproduces"] is False and "varies between seeds" in row["note"]
    assert found["Figure 3, simulated_ads: distance of tasks' weights, less without_aux"][
        "ours"
    ] == pytest.approx(np.sqrt(2) / 2)
    assert found["Figure 4, simulated_ads: skip connections, darts less automtl"]["ours"] == 3
    row = found["Figure 4, simulated_ads: skip connections, darts_minus less automtl"]
    assert row["reproduces"] is False and row["published"] == "more"
    for count in (1, 8):
        row = found[f"Figure 5, simulated_ads_4: MTL-Loss, {count} experts per task less 3"]
        assert row["ours"] == pytest.approx((count - 3) ** 2 / 100) and row["reproduces"] is True
    assert found["simulated_ads_4/least loss"]["ours"] == 3
    ratio = found["Table 4, simulated_ads: search by training"]
    assert ratio["ours"] == pytest.approx(31 / 3) and ratio["reproduces"] is None
    assert not ratio["comparable"]
    assert found["simulated_ads/automtl/stopped"]["ours"] == 0.5
    assert found["simulated_ads/darts/skips after epoch 2"]["ours"] == 5
    assert "--data" in found["census_income"]["note"] and found["census_income"]["ours"] is None
    drawn = {path.name for path in (tmp_path / "automtl-simulated_ads_4").iterdir()}
    assert {"skips.png", "selection-automtl.png", "architecture-automtl.png"} < drawn


def test_an_arm_that_is_worse_everywhere_does_not_reproduce(measured, undrawn, capsys, monkeypatch):
    before = arms.trained

    def trained(data, declared, *rest):
        better = 0.2 * declared.name.endswith("mmoe")
        return {**(found := before(data, declared, *rest)), "mean_auc": found["mean_auc"] + better}

    monkeypatch.setattr(arms, "trained", trained)
    found = printed(capsys, "--seeds", "3", "--quick")
    row = found["Table 3, simulated_ads: automtl less mmoe/mean_auc"]
    assert row["reproduces"] is False and row["seeds_with_the_sign"] == "0/3"


def test_a_star_needs_a_gain_of_which_the_paired_test_is_sure():
    random = np.random.default_rng(1)
    a, b = 0.7 + random.normal(size=(2, 5)) / 100
    for gain, star in ((0.0, False), (0.1, True), (-0.1, False)):
        found = [
            {"arms": {"automtl": {"mean_auc": x + gain}, "mmoe": {"mean_auc": y}}}
            for x, y in zip(a, b, strict=True)
        ]
        (row,) = paper.tests("shop", [], "imp", found)
        assert row.value == pytest.approx(stats.ttest_rel(a + gain, b).pvalue)
        assert row.note.startswith("*") == star and row.holds is None


def test_kept_figures_are_read_again_by_seed_and_arm(measured, undrawn, capsys, tmp_path):
    argv = ["--quick", "--seeds", "2", "--keep", str(tmp_path)]
    first = printed(capsys, *argv)
    paper._seed.cache_clear()
    measured.clear()
    assert printed(capsys, *argv) == first and not measured
    lost = [path for path in tmp_path.iterdir() if "-seed1-mmoe-" in path.name]
    lost[0].unlink()
    paper._seed.cache_clear()
    printed(capsys, *argv)
    assert [(arm, seed) for _, arm, seed in measured] == [("mmoe", 1)]


def test_a_data_set_of_the_paper_needs_a_reader_alone_and_its_levels_are_then_judged(
    measured, undrawn, capsys, monkeypatch, tmp_path
):
    reader = dataclasses.replace(
        SHOP, rows=dataclasses.replace(SHOP.rows, name="aliexpress_nl"), name="aliexpress_nl"
    )
    monkeypatch.setattr(arms, "DATA_SETS", {**arms.DATA_SETS, "aliexpress_nl": reader})
    (tmp_path / "aliexpress_nl").mkdir()
    found = printed(capsys, "--seeds", "2", "--quick", "--data", str(tmp_path))
    assert {seed for name, _, seed in measured if name == "aliexpress_nl"} == {0, 1}
    level = found["Table 3, aliexpress_nl: mmoe/like/auc@imp"]
    assert level["published"] == 0.7218 and level["rule"] == "near" and level["comparable"]
    sign = found["Table 3, aliexpress_nl: automtl less mmoe/cart/auc@imp"]
    assert sign["published"] == pytest.approx(0.0075) and sign["reproduces"] is True
    assert found["Table 4, aliexpress_nl: search by training"]["published"] == pytest.approx(
        10 / 1.1
    )


def test_a_reduced_search_is_of_a_part_of_the_space_and_another_grid_is_refused(capsys):
    declared = arms.experiment(SIMULATED, "automtl", 1, arms.REDUCED).search
    for part, whole in (
        (declared.interactions, INTERACTIONS),
        (declared.poolings, POOLINGS),
        (declared.hidden, HIDDEN),
    ):
        assert {label: dict(config) for label, config in part}.items() <= dict(whole).items()
    assert reproduce.reproduce(["automtl", "--grid", "printed"]) == 2
    assert "full, reduced" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_run_searches_and_trains(capsys, tmp_path):
    paper._seed.cache_clear()
    found = printed(capsys, "--quick", "--keep", str(tmp_path))
    for arm in arms.SHORT:
        assert 0.4 < found[f"simulated_ads/{arm}/mean_auc"]["ours"] < 0.8
        assert 0 < found[f"simulated_ads_4/{arm}/mtl_loss"]["ours"] < 0.7
    paper._seed.cache_clear()
