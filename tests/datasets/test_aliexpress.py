"""AliExpress' reader: the mapping of columns, both forms, the join, and damaged files."""

import gzip

import numpy as np
import pyarrow as pa
import pytest

from tfmtl.data.readers import open_table
from tfmtl.data.sources import Source, reader_of
from tfmtl.errors import DataError, SpecError
from tfmtl.simulator import write_aliexpress

NAMES = [f"NL_{kind}_{part}.csv" for part in ("train", "test") for kind in ("user", "item")]


def read(path, columns=None, **settings):
    source = Source(reader={"name": "aliexpress", **settings})
    known = reader_of(source).columns()
    wanted = {name: known[name] for name in columns or known}
    return pa.Table.from_batches(open_table(str(path), wanted, source))


def fails(path, **settings):
    with pytest.raises(DataError) as error:
        read(path, ["click", "search_id"], **settings)
    return str(error.value)


def numbered(search, columns, label=None):
    """A line whose values are the numbers of their columns, from 1."""
    values = [search, *(str(i) for i in range(2, columns + 1))]
    if label is not None:
        values[-1] = str(label)
    return ",".join(values)


@pytest.fixture
def folder(tmp_path):
    user = [numbered("s1", 33), numbered("s2", 33), numbered("s9", 33)]
    item = [numbered("s1", 49, 0), numbered("s1", 49, 1), numbered("s3", 49, 2)]
    item += [numbered("s2", 49, 2)]
    for name, lines in zip(NAMES, (user, item, user, item[:1]), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_every_feature_is_the_column_that_the_code_of_mtreclib_reads(folder):
    row = read(folder).slice(0, 1).to_pylist()[0]
    ids = [*range(2, 9), 32, 33, 19, 34, 35, 36, 40, 41, 42]
    numbers = [*range(9, 32), *(i for i in range(2, 49) if i not in ids[9:])]
    assert [row[f"categorical_{i}"] for i in range(1, 17)] == [str(i) for i in ids]
    assert [row[f"numerical_{i}"] for i in range(1, 64)] == [float(i) for i in numbers]
    assert len(numbers) == 63


def test_the_join_is_inner_and_keeps_the_order_of_the_item_file(folder):
    rows = read(folder, ["search_id", "click", "conversion", "country"]).to_pydict()
    assert rows == {
        "search_id": ["s1", "s1", "s2", "s1"],
        "click": [0, 1, 1, 0],
        "conversion": [0, 0, 1, 0],
        "country": ["NL"] * 4,
    }


def test_several_user_rows_of_a_search_give_a_row_each_as_the_join_of_the_papers_does(folder):
    path = folder / "NL_user_train.csv"
    path.write_text(path.read_text() + numbered("s1", 33) + "\n")
    rows = read(folder, ["search_id", "click"]).to_pydict()
    assert rows["search_id"] == ["s1", "s1", "s1", "s1", "s2", "s1"]
    assert rows["click"] == [0, 0, 1, 1, 1, 0]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_aliexpress(str(folder / "raw"), rows=6_000, seed=2, countries=("NL", "US"))
    write_aliexpress(
        str(folder / "joined"), rows=6_000, seed=2, countries=("NL", "US"), form="joined"
    )
    return folder


def test_both_forms_give_the_same_rows_but_for_searches_without_a_user(simulated):
    raw, joined = (read(simulated / form, country="US") for form in ("raw", "joined"))
    assert 0.95 * len(joined) < len(raw) < len(joined) == 6_000
    searches = set(raw["search_id"].to_pylist())
    kept = pa.array([s in searches for s in joined["search_id"].to_pylist()])
    assert raw.equals(joined.filter(kept))


def test_a_folder_of_several_countries_asks_which(simulated):
    message = fails(simulated / "raw")
    assert "NL, US" in message and "--source reader.country=NL" in message


def test_a_missing_country_is_named_and_so_are_those_that_are_there(simulated):
    message = fails(simulated / "raw", country="FR")
    assert "country FR" in message and "NL, US" in message
    with pytest.raises(SpecError, match="country='nl'.*Did you mean 'NL'"):
        read(simulated / "raw", country="nl")


def test_a_missing_file_of_a_country_is_named(folder):
    (folder / "NL_item_test.csv").unlink()
    assert "'NL_item_test.csv'" in fails(folder)


def test_the_split_by_search_keeps_searches_together_and_the_papers_does_not(simulated):
    for scheme, leaks in (("automtl", True), ("by_search", False)):
        rows = read(simulated / "raw", ["split", "search_id"], country="NL", split=scheme)
        sides = {}
        for split, search in zip(*rows.to_pydict().values(), strict=True):
            sides.setdefault(split, []).append(search)
        assert bool(set(sides["train"]) & set(sides["validation"])) is leaks
        share = len(sides["validation"]) / (len(sides["train"]) + len(sides["validation"]))
        assert share == pytest.approx(0.2, abs=0.02 if leaks else 0.05)
        assert not set(sides["test"]) & {*sides["train"], *sides["validation"]}


@pytest.mark.parametrize(
    ("name", "change", "where", "what"),
    [
        ("NL_item_train.csv", lambda t: t.replace("s3,2,", "s3,"), 3, "has 48 values"),
        (
            "NL_user_train.csv",
            lambda t: t.replace("s2,2,3,4,5,6,7,8,9,", "s2,2,3,4,5,6,7,8,no,"),
            2,
            "'no'",
        ),
        ("NL_item_train.csv", lambda t: t.replace("48,2\n", "48,7\n"), 3, "label is 7"),
        ("NL_item_test.csv", lambda t: t[:-9], 1, "cut off"),
        ("NL_user_test.csv", lambda t: t[:-2], 3, "cut off"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_line(folder, name, change, where, what):
    (folder / name).write_text(change((folder / name).read_text()))
    message = fails(folder)
    assert f"{name}, line {where}" in message and what in message


def test_a_truncated_archive_is_named_with_its_line(folder):
    random = np.random.default_rng(1)
    lines = [numbered(f"s{random.integers(1e12)}", 49, 0) for _ in range(5000)]
    packed = gzip.compress(("\n".join(lines) + "\n").encode())
    (folder / "NL_item_test.csv").unlink()
    (folder / "NL_item_test.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "NL_item_test.csv.gz, line" in fails(folder)


def test_an_empty_folder_says_what_it_should_have(tmp_path):
    assert "NL_user_train.csv" in fails(tmp_path)
