"""Trees read a history as its length and its matches with the row's own values."""

import pyarrow as pa
import pytest

from tests.doubles.histories import problem, rows
from tfmtl.boosting.boosters import Boosters
from tfmtl.boosting.train import train_boosters

lightgbm = pytest.importorskip("lightgbm")


def test_trees_learn_from_matches_and_are_loaded_with_equal_predictions(tmp_path):
    spec = problem()
    tables = {"train": pa.table(rows(900)), "validation": pa.table(rows(400, seed=1))}
    boosters = train_boosters(
        spec, tables, tasks=["ctr"], rounds=10, min_data_in_leaf=10, verbose=0, num_threads=1
    )
    names = boosters.columns.names()
    assert "clicked/length" in names and "clicked/clicked_categories_matches" in names
    assert not {"now", "clicked_ads", "clicked_times"} & set(names)
    assert boosters.evaluate(tables["validation"])["ctr/auc@imp"] > 0.55
    boosters.save(str(tmp_path / "trees"))
    again = Boosters.load(str(tmp_path / "trees"), num_threads=1)
    one, two = (b.predict(tables["validation"])["ctr"] for b in (boosters, again))
    assert (one == two).all()
