"""LightGBM as a baseline: rows, labels and metrics are a model's, and no row sees its own label."""

import dataclasses
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import tfmtl
from tfmtl.boosting import columns as tree_features
from tfmtl.boosting.boosters import Boosters
from tfmtl.boosting.train import train_boosters
from tfmtl.declare.layout import GROUP, LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical, regression
from tfmtl.errors import DataError, SpecError
from tfmtl.metrics.packed import Predicted, packed_metrics

SHOP = ProblemSpec(
    features=(
        categorical("user", dtype="int64", side="user"),
        categorical("kind", side="ad"),
        numerical("price", side="ad"),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="sale", observed_if="click"),
        binary("ctcvr", label="sale"),
        regression("value", label="worth"),
    ),
    request_id="request",
)
SMALL = {
    "rounds": 12,
    "patience": 3,
    "min_data_in_leaf": 10,
    "num_leaves": 7,
    "num_threads": 1,
    "verbose": 0,
}
# Forty users are too many here: they become means and counts.
MEANS = {**SMALL, "most_categories": 20}


def shop(seed, rows=600):
    random = np.random.default_rng(seed)
    user, kind = random.integers(0, 40, rows), random.integers(0, 4, rows)
    price = random.normal(size=rows).astype(np.float32)
    click = random.random(rows) < 1 / (1 + np.exp(0.5 - price - 0.1 * (user % 7)))
    sale = click & (random.random(rows) < 1 / (1 + np.exp(0.5 - kind)))
    return pa.table(
        {
            "user": user,
            "kind": np.array(["book", "game", "hat", "pen"])[kind],
            "price": price,
            "request": np.arange(rows) // 3,
            "click": click.astype(np.float32),
            "sale": sale.astype(np.float32),
            "worth": (price + kind).astype(np.float32),
        }
    )


TABLES = {name: shop(seed) for seed, name in enumerate(("train", "validation", "test"))}


def changed(table, name, values):
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table[name].type))


@pytest.fixture(scope="module")
def boosters():
    return train_boosters(SHOP, TABLES, **MEANS)


def own_means(table, seen=None):
    columns = tree_features.fit_columns(SHOP, table, most_categories=20)
    fold = tree_features.folds_of(SHOP, table, folds=5, seed=1)
    labels = table["click"].to_numpy().astype(float)
    seen = np.ones(len(labels), bool) if seen is None else seen
    fitted, own = tree_features.fit_means(
        columns, columns.codes(table), labels, seen, fold, smoothing=20.0
    )
    return fitted, own["user"], fold


def test_a_training_row_s_mean_does_not_know_the_row_s_own_label():
    train = TABLES["train"]
    _, before, fold = own_means(train)
    flipped = train["click"].to_numpy().copy()
    flipped[17] = 1 - flipped[17]
    _, after, _ = own_means(changed(train, "click", flipped))
    user = train["user"].to_numpy()
    assert after[17] == before[17]
    same = fold == fold[17]
    np.testing.assert_array_equal(after[same], before[same])
    others = (user == user[17]) & ~same
    assert others.any() and (after[others] != before[others]).all()


def test_a_mean_is_smoothed_towards_the_mean_of_the_folds_it_was_taken_over():
    train = TABLES["train"]
    fitted, own, fold = own_means(train)
    user, click = train["user"].to_numpy(), train["click"].to_numpy()
    others = fold != fold[17]
    of_user = click[others & (user == user[17])]
    wanted = (of_user.sum() + 20 * click[others].mean()) / (len(of_user) + 20)
    assert own[17] == pytest.approx(wanted)
    place = np.unique(user).tolist().index(3)
    clicks = click[user == 3]
    assert fitted.means["user"][place] == pytest.approx(
        (clicks.sum() + 20 * click.mean()) / (len(clicks) + 20)
    )


def test_rows_of_one_request_share_a_fold_and_a_fold_that_comes_with_the_rows_decides():
    train = TABLES["train"]
    fold = tree_features.folds_of(SHOP, train, folds=5, seed=1)
    assert (fold.reshape(-1, 3) == fold[::3, np.newaxis]).all() and set(fold) == set(range(5))
    given = train.append_column("_fold", pa.array(np.arange(600) + 5))
    assert tree_features.folds_of(SHOP, given, folds=5, seed=1)[:3].tolist() == [0, 1, 2]


def test_values_are_known_from_training_rows_alone_and_unseen_ones_are_missing():
    columns = tree_features.fit_columns(SHOP, TABLES["train"], most_categories=20)
    assert columns.names() == ["user_mean", "user_count", "kind", "price"]
    assert columns.categories() == ["kind"]
    rows = changed(TABLES["test"], "kind", ["kite", None, ""] + ["pen"] * 597)
    rows = changed(rows, "user", [99, None] + [3] * 598)
    codes = columns.codes(rows)
    fitted, _, _ = own_means(TABLES["train"])
    made = columns.matrix(rows, codes, fitted.of(codes))
    assert np.isnan(made[:3, 2]).all() and made[3, 2] == 3
    # An unseen user has the prior and a count of none; a missing one has neither.
    assert made[0, 0] == pytest.approx(fitted.prior) and made[0, 1] == 0
    assert np.isnan(made[1, :2]).all()
    count = (TABLES["train"]["user"].to_numpy() == 3).sum()
    assert made[2, 1] == pytest.approx(np.log1p(count))


def test_the_conversion_s_trees_are_of_clicked_rows_and_those_of_impressions_of_all(boosters):
    train = TABLES["train"]
    click, sale = train["click"].to_numpy(), train["sale"].to_numpy()
    other = {**TABLES, "train": changed(train, "sale", np.where(click > 0, sale, 1 - sale))}
    tasks = ["cvr", "ctcvr"]
    # Without a click a conversion would be a negative anyway, and the rows not seen to count.
    shop = dataclasses.replace(SHOP, orphans="positive")
    again = train_boosters(shop, other, tasks=tasks, **MEANS).predict(TABLES["test"])
    before = boosters.predict(TABLES["test"])
    np.testing.assert_array_equal(again["cvr"], before["cvr"])
    assert np.abs(again["ctcvr"] - before["ctcvr"]).max() > 0.01
    rows = train.filter(pa.array(click > 0))
    clicked = train_boosters(SHOP, {**TABLES, "train": rows}, tasks=tasks[:1], **SMALL)
    every = train_boosters(SHOP, TABLES, tasks=tasks[:1], **SMALL)
    np.testing.assert_array_equal(
        clicked.predict(TABLES["test"])["cvr"], every.predict(TABLES["test"])["cvr"]
    )


def test_rounds_are_chosen_on_validation_and_no_test_row_is_looked_at():
    noise = changed(TABLES["validation"], "click", np.random.default_rng(3).integers(0, 2, 600))
    good = train_boosters(SHOP, TABLES, tasks=["ctr"], **{**SMALL, "rounds": 60})
    bad = train_boosters(
        SHOP, {**TABLES, "validation": noise}, tasks=["ctr"], **{**SMALL, "rounds": 60}
    )
    assert good.rounds != bad.rounds and max(good.rounds["ctr"], bad.rounds["ctr"]) < 60
    blind = {name: TABLES[name] for name in ("train", "validation")}
    alone = train_boosters(SHOP, blind, tasks=["ctr"], **{**SMALL, "rounds": 60})
    assert alone.rounds == good.rounds


def test_the_best_rounds_are_those_of_the_best_validation_auc():
    found = []
    for rounds in range(1, 16):
        # No patience can be spent within so few rounds: these are exactly `rounds` trees or fewer.
        trained = train_boosters(
            SHOP, TABLES, tasks=["ctr"], **{**SMALL, "rounds": rounds, "patience": 99}
        )
        found.append(trained.evaluate(TABLES["validation"])["ctr/auc@imp"])
        # Keeping the best, more rounds never lose.
        assert found[-1] == pytest.approx(max(found), abs=1e-6)
    assert trained.rounds["ctr"] < 15


def test_what_is_read_again_predicts_the_same(boosters, tmp_path):
    boosters.save(str(tmp_path / "trees"))
    again = Boosters.load(str(tmp_path / "trees"), num_threads=1)
    before, after = boosters.predict(TABLES["test"]), again.predict(TABLES["test"])
    assert list(before) == list(after) == ["ctr", "cvr", "ctcvr", "value"]
    for task in before:
        np.testing.assert_array_equal(before[task], after[task])
    assert again.problem == SHOP and again.rounds == boosters.rounds
    assert again.evaluate(TABLES["test"]) == boosters.evaluate(TABLES["test"])


def test_the_same_seed_gives_the_same_trees_and_another_others(boosters):
    first, again, other = (
        train_boosters(SHOP, TABLES, tasks=["ctr"], seed=seed, **MEANS).predict(TABLES["test"])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first["ctr"], again["ctr"])
    np.testing.assert_array_equal(first["ctr"], boosters.predict(TABLES["test"])["ctr"])
    assert (first["ctr"] != other["ctr"]).any()


def test_metrics_have_the_names_and_the_labels_of_a_model_s(boosters):
    # What `MultiTaskModel.evaluate` measures: rows as they are packed for it.
    preprocessor = tfmtl.Preprocessor(SHOP)
    preprocessor.fit(TABLES["train"])
    packed = {name: value.numpy() for name, value in preprocessor(TABLES["test"]).items()}
    labels, weights, groups = (packed[name] for name in (LABELS, WEIGHTS, GROUP))
    predictions = boosters.predict(TABLES["test"])
    theirs = Predicted(labels=labels, observed=weights > 0, predictions=predictions, groups=groups)
    ours = boosters.evaluate(TABLES["test"])
    assert ours == pytest.approx(packed_metrics(SHOP, theirs), nan_ok=True)
    assert {"ctr/auc@imp", "ctr/gauc@imp", "cvr/auc@click", "ctcvr/ne@imp", "mean_auc"} <= set(ours)
    assert ours["ctr/auc@imp"] > 0.6 and ours["value/r2@imp"] > 0.5


def test_frames_of_pandas_are_as_good_as_tables(boosters):
    frame = TABLES["test"].to_pandas().drop(columns=["click", "sale", "worth"])
    np.testing.assert_array_equal(
        boosters.predict(frame)["ctr"], boosters.predict(TABLES["test"])["ctr"]
    )
    assert isinstance(frame, pd.DataFrame)


def test_a_column_that_is_not_there_is_named_with_the_nearest(boosters):
    renamed = TABLES["test"].rename_columns(
        ["prize" if name == "price" else name for name in TABLES["test"].column_names]
    )
    with pytest.raises(DataError, match=r"\['price'\].*Did you mean 'prize'"):
        boosters.predict(renamed)
    with pytest.raises(DataError, match=r"\['sale'\]"):
        train_boosters(SHOP, {**TABLES, "train": TABLES["train"].drop(["sale"])}, **SMALL)
    with pytest.raises(SpecError, match="Did you mean 'ctcvr'"):
        train_boosters(SHOP, TABLES, tasks=["ctcvrs"], **SMALL)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_task_of_one_class_is_refused_before_anything_is_grown(split):
    none = {**TABLES, split: changed(TABLES[split], "sale", np.zeros(600))}
    with pytest.raises(DataError, match=f"'cvr'.*{split} rows of its space 'click'"):
        train_boosters(SHOP, none, tasks=["cvr"], **SMALL)


def test_without_lightgbm_the_error_says_what_to_install(monkeypatch):
    # What Python raises for a package that is not installed.
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"pip install tfmtl\[lightgbm\]"):
        tfmtl.train_boosters(SHOP, TABLES, **SMALL)


def test_example_weights_count_in_the_loss():
    weighted = ProblemSpec(
        features=SHOP.features, tasks=(binary("ctr", label="click", weight="many"),)
    )
    many = np.where(TABLES["train"]["click"].to_numpy() > 0, 9.0, 1.0)
    tables = {name: table.append_column("many", [many]) for name, table in TABLES.items()}
    heavy = train_boosters(weighted, tables, **SMALL).predict(TABLES["test"])["ctr"]
    plain = train_boosters(SHOP, TABLES, tasks=["ctr"], **SMALL).predict(TABLES["test"])["ctr"]
    assert heavy.mean() > plain.mean() + 0.1
