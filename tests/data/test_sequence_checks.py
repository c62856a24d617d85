"""What the checks say of histories: lists that do not fit, events that come too late, leaks."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.doubles.histories import problem, rows
from tfmtl.data.checks import Checks
from tfmtl.data.matches import match_numbers
from tfmtl.data.table import read_table
from tfmtl.declare.split import by_hash, whole
from tfmtl.errors import DataError


def changed(**settings):
    spec = problem()
    (feature,) = spec.sequences
    changed = dataclasses.replace(feature, **settings)
    return dataclasses.replace(spec, features=(*spec.features[:-1], changed))


def table(count=400, **more):
    return pa.table({**rows(count), **more})


def checked(spec, columns, tmp_path):
    path = str(tmp_path / "log.parquet")
    pq.write_table(columns, path)
    return read_table(path, spec, split=whole())["all"]


def report_of(spec, columns):
    from tfmtl.data.types import typed

    checks = Checks(spec, whole())
    declared = spec.columns()
    arrays = [
        typed(pa.concat_arrays(columns[n].chunks), c, "|", ("",)) for n, c in declared.items()
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(declared))
    checks.update(batch, pa.array([0] * batch.num_rows).to_numpy())
    return checks.finish()


def leaking(count=400):
    """The log whose histories end with the row's own click, at the row's own time."""
    columns = rows(count)
    own = [
        (name, columns[source], empty)
        for name, source, empty in (
            ("clicked_ads", "ad", None),
            ("clicked_categories", "category", None),
            ("clicked_times", "now", None),
        )
    ]
    for name, values, _ in own:
        columns[name] = [
            [*h, v if name != "clicked_times" else int(v)] if click else h
            for h, v, click in zip(columns[name], values, columns["click"], strict=True)
        ]
    columns["clicked_actions"] = [
        [*h, 0] if click else h
        for h, click in zip(columns["clicked_actions"], columns["click"], strict=True)
    ]
    return pa.table(columns)


def test_the_report_counts_events_and_rows_without_any():
    columns = rows(400)
    counts = report_of(problem(), pa.table(columns)).sequences["clicked"]
    lengths = [len(h) for h in columns["clicked_ads"]]
    assert counts["rows"] == 400 and counts["events"] == sum(lengths)
    assert counts["kept"] == sum(min(n, 5) for n in lengths)
    assert counts["empty_rows"] == lengths.count(0) and counts["late"] == 0


def test_late_events_are_counted_with_an_example_and_dropped():
    report = report_of(problem(), leaking())
    clicks = int(sum(rows(400)["click"]))
    assert report.sequences["clicked"]["late_rows"] == clicks
    (line,) = [w for w in report.warnings if w.startswith("sequence")]
    assert f"{clicks:,} rows have events that are not before the row; they are left out" in line
    assert "at 17" in line and "the row at 17" in line


def test_late_events_are_refused_where_declared_with_file_and_row(tmp_path):
    with pytest.raises(DataError, match=r"not before the row; .* first in file .*parquet, row \d+"):
        checked(changed(late="refuse"), leaking(), tmp_path)


def test_a_kept_leak_is_found_as_a_match_with_the_rows_own_value(tmp_path):
    columns = leaking().set_column(
        leaking().column_names.index("ad"), "ad", pa.array([f"n{i}" for i in range(400)])
    )
    clicked = [
        [*h[:-1], f"n{i}"] if click else h
        for i, (h, click) in enumerate(
            zip(leaking()["clicked_ads"].to_pylist(), rows(400)["click"], strict=True)
        )
    ]
    at = columns.column_names.index("clicked_ads")
    columns = columns.set_column(at, "clicked_ads", pa.array(clicked))
    message = r"feature 'clicked' alone gives task 'ctr' an AUC of (1.0|0.99)"
    with pytest.raises(DataError, match=message):
        checked(changed(late="keep"), columns, tmp_path)
    # Dropped, the same events say nothing.
    checked(changed(late="drop"), columns, tmp_path)


def test_lists_of_unequal_length_are_refused_with_names_lengths_and_row(tmp_path):
    columns = rows(400)
    columns["clicked_actions"][7] = [1] * 20
    where = r"'clicked_ads' and 'clicked_actions'.*row 8 \(\d and 20 values\)"
    with pytest.raises(DataError, match=where):
        checked(problem(), pa.table(columns), tmp_path)


def test_text_in_one_file_and_lists_in_another_are_read_alike(tmp_path):
    columns = table(60)
    pq.write_table(columns, tmp_path / "lists.parquet")
    lines = ["|".join(map(str, h)) for h in columns["clicked_times"].to_pylist()]
    text = columns.set_column(columns.column_names.index("clicked_times"), "clicked_times", [lines])
    pq.write_table(text, tmp_path / "text.parquet")
    one, two = (
        read_table(str(tmp_path / f), problem(), split=whole())["all"]["clicked_times"].to_pylist()
        for f in ("lists.parquet", "text.parquet")
    )
    assert one == two


def test_matches_are_counted_among_kept_events_and_their_last_age_is_known():
    columns = pa.table(
        {
            **{k: v[:2] for k, v in rows(4).items()},
            "ad": ["x", "y"],
            "category": ["c", "d"],
            "now": [100, 100],
            "clicked_ads": [["x", "y", "x", "x"], ["z"]],
            "clicked_categories": [["c", "c", "c", "d"], ["e"]],
            "clicked_actions": [[0, 1, 2, 3], [0]],
            "clicked_times": [[1, 2, 30, 200], [5]],
        }
    )
    spec = problem()
    numbers = match_numbers(spec, spec.sequences[0], columns)
    assert numbers["clicked/length"].tolist() == [3, 1]
    assert numbers["clicked/clicked_ads_matches"].tolist() == [2, 0]
    assert numbers["clicked/clicked_categories_matches"].tolist() == [3, 0]
    assert numbers["clicked/clicked_ads_age"][0] == 70
    assert numbers["clicked/clicked_ads_age"][1] != numbers["clicked/clicked_ads_age"][1]


def test_the_split_may_be_by_anything_and_test_histories_may_hold_training_events(tmp_path):
    path = str(tmp_path / "log.parquet")
    pq.write_table(table(), path)
    tables = read_table(path, problem(), split=by_hash("request"))
    assert all(tables[name].num_rows for name in ("train", "validation", "test"))
