"""Ali-CCP's reader: golden lines, the join, the splits, and what is said of damaged files."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tfmtl.data.readers import open_table
from tfmtl.data.sources import Source, reader_of
from tfmtl.data.table import read_table
from tfmtl.datasets.keyed_store import KeyedStore
from tfmtl.datasets.problems import preparation
from tfmtl.errors import DataError, SpecError
from tfmtl.features.prepare import prepare
from tfmtl.simulator import write_ali_ccp

NAMES = [f"{k}_{p}.csv" for p in ("train", "test") for k in ("common_features", "sample_skeleton")]


def items(*triples):
    return "\x01".join(f"{field}\x02{feature}\x03{value}" for field, feature, value in triples)


def line(*start, of):
    return ",".join([*map(str, start), str(len(of)), items(*of)])


USER_A = [("101", "7", "1.0"), ("109_14", "c1", "0.69"), ("109_14", "c2", "2.30")]
USER_B = [("101", "8", "1.0"), ("129", "rural", "1.0")]
AD = [("205", "x", "1.0"), ("206", "c2", "1.0")]
TRAIN = [
    line("1", 0, 0, "a", of=AD),
    line("2", 1, 0, "b", of=[*AD, ("210", "i1", "1.0"), ("210", "i2", "3.0")]),
    line("3", 1, 1, "a", of=[*AD, ("508", "c2", "2.30")]),
    # A conversion without a click.
    line("4", 0, 1, "b", of=AD),
    # A field that both lists have: the common one counts.
    line("5", 0, 0, "b", of=[*AD, ("129", "city", "1.0"), ("301", "2", "1.0")]),
    line("6", 0, 0, "a", of=[]),
]
TEST = [line("7", 1, 0, "a", of=[("205", "only-in-test", "1.0")])]
COMMON = [line("a", of=USER_A), line("b", of=USER_B)]


@pytest.fixture
def folder(tmp_path):
    for name, lines in zip(NAMES, (COMMON, TRAIN, COMMON, TEST), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def read(path, columns=None, **settings):
    source = Source(reader={"name": "ali_ccp", **settings})
    known = reader_of(source).columns()
    wanted = {name: known[name] for name in columns or known}
    return pa.Table.from_batches(open_table(str(path), wanted, source))


def fails(path, **settings):
    with pytest.raises(DataError) as error:
        read(path, ["click", "f_205", "d_508"], **settings)
    return str(error.value)


def test_the_rows_are_those_of_the_skeleton_with_the_common_features_of_their_index(folder):
    rows = read(folder, ["sample_id", "click", "conversion", "f_101", "f_205", "f_206", "f_301"])
    assert rows.to_pydict() == {
        "sample_id": ["1", "2", "3", "4", "5", "6", "7"],
        "click": [0, 1, 1, 0, 0, 0, 1],
        "conversion": [0, 0, 1, 1, 0, 0, 0],
        "f_101": ["7", "8", "7", "8", "8", "7", "7"],
        "f_205": ["x", "x", "x", "x", "x", None, "only-in-test"],
        "f_206": ["c2", "c2", "c2", "c2", "c2", None, None],
        "f_301": [None, None, None, None, "2", None, None],
    }


def test_a_field_that_both_lists_have_is_the_common_one_s(folder):
    assert read(folder, ["f_129"])["f_129"].to_pylist()[4] == "rural"


def test_a_field_that_repeats_is_a_list_with_weights_or_by_name_its_last_feature(folder):
    rows = read(folder, ["f_210", "w_210", "last_210", "f_109_14", "w_109_14", "d_109_14"])
    assert rows.slice(1, 1).to_pylist()[0] == {
        "f_210": ["i1", "i2"],
        "w_210": [1.0, 3.0],
        "last_210": "i2",
        "f_109_14": None,
        "w_109_14": None,
        "d_109_14": None,
    }
    first = rows.slice(0, 1).to_pylist()[0]
    assert first["f_109_14"] == ["c1", "c2"] and first["d_109_14"] == pytest.approx(2.30)
    assert first["w_109_14"] == pytest.approx([0.69, 2.30])
    assert first["f_210"] is None


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "ccp"
    write_ali_ccp(str(path), rows=12_000, seed=3)
    return path


def test_aitm_s_preparation_drops_conversions_without_a_click(simulated):
    prepared = preparation("ali_ccp", "aitm")
    tables = read_table(str(simulated), prepared.problem, prepared.source, prepared.split)
    rows = read(simulated, ["click", "conversion"])
    orphans = int((rows["conversion"].to_numpy() > rows["click"].to_numpy()).sum())
    assert orphans and sum(len(table) for table in tables.values()) == 12_000 - orphans
    for table in tables.values():
        assert not (table["conversion"].to_numpy() > table["click"].to_numpy()).any()


def test_what_the_generator_writes_has_every_oddity(simulated):
    rows = read(simulated)
    assert len(rows) == 12_000
    click, conversion = (rows[name].to_numpy() for name in ("click", "conversion"))
    assert 0 < (conversion > click).sum() < 100
    assert max(len(values) for values in rows["f_210"].to_pylist()) == 3
    assert 0 < rows["f_216"].null_count < 300
    assert "3439299" not in set(rows["f_129"].to_pylist())
    test = np.array(rows["split"].to_pylist()) == "test"
    ads = np.array(rows["f_205"].to_pylist())
    assert set(ads[test]) - set(ads[~test])
    texts = b"".join((simulated / name).read_bytes() for name in NAMES)
    assert b"3439299" in texts


def test_the_generator_s_labels_and_ids_come_back_as_they_were_drawn(simulated):
    from tfmtl.simulator.raw_lines import column, raw_batches, raw_world

    world = raw_world(12_000, 3, per_user=400, per_ad=500)
    drawn = pa.Table.from_batches(raw_batches(world, 12_000, 3)).combine_chunks().to_batches()[0]
    rows = read(simulated, ["click", "f_101", "f_206"])
    np.testing.assert_array_equal(rows["click"].to_numpy(), column(drawn, "click"))
    assert rows["f_101"].to_pylist() == [str(101_000 + u) for u in column(drawn, "user_id")]


def test_reading_twice_gives_the_same_rows_in_the_same_order(simulated):
    assert read(simulated).equals(read(simulated))


@pytest.mark.parametrize(
    ("scheme", "share", "of"),
    [("aitm", 0.1, "train"), ("automtl", 0.2, "train"), ("rechub", 0.5, "test")],
)
def test_a_paper_s_split_has_its_share_of_rows(simulated, scheme, share, of):
    split = read(simulated, ["split"], split=scheme)["split"].to_pylist()
    parts = {name: split.count(name) for name in ("train", "validation", "test")}
    assert sum(parts.values()) == 12_000
    assert parts["validation"] / (parts["validation"] + parts[of]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("scheme", ["aitm", "automtl"])
def test_the_grouped_split_keeps_a_user_and_time_on_one_side_and_the_paper_s_does_not(
    simulated, scheme
):
    for name, leaks in ((scheme, True), (f"{scheme}_grouped", False)):
        rows = read(simulated, ["split", "common_feature_index"], split=name).to_pydict()
        sides = {}
        for split, group in zip(rows["split"], rows["common_feature_index"], strict=True):
            sides.setdefault(split, set()).add(group)
        assert bool(sides["train"] & sides["validation"]) is leaks


def test_vocabularies_are_of_training_rows_alone(simulated, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in NAMES:
        text = (simulated / name).read_bytes()
        if name == "sample_skeleton_test.csv":
            text = text.replace(b"205\x024", b"205\x0277")
        (changed / name).write_bytes(text)
    prepared = preparation("ali_ccp", "aitm")
    fitted = []
    for path in (simulated, changed):
        tables = read_table(str(path), prepared.problem, prepared.source, prepared.split)
        fitted.append(prepare(prepared.problem, tables))
    a, b = (one.data.train.tensors for one in fitted)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert fitted[0].preprocessor.table_rows() == fitted[1].preprocessor.table_rows()


def spoiled(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lambda t: t.replace(b"\n3,1,1,a,3,", b"\n3,1,1,a,"), 3, "has 5 values"),
        (lambda t: t.replace(b"\n3,1,1,a,3,", b"\n3,1,1,a,9,"), 3, "has 3 items"),
        (lambda t: t.replace(b"\n3,1,", b"\n3,one,"), 3, "'one'"),
        (lambda t: t.replace(b"\n3,1,1", b"\n3,2,1"), 3, "click is 2"),
        (lambda t: t.replace(b"\n3,1,1,a,", b"\n3,1,1,zz,"), 3, "'zz' is not in"),
        (lambda t: t.replace(b"c2\x032.30", b"c2\x03lots"), 3, "'lots'"),
        (lambda t: t.replace(b"508\x02c2\x03", b"508\x02c2"), 3, "is not field"),
        (lambda t: t[:-5], 6, "cut off"),
    ],
)
def test_a_damaged_line_is_named_with_its_file_and_line(folder, change, where, what):
    spoiled(folder, "sample_skeleton_train.csv", change)
    message = fails(folder)
    assert f"sample_skeleton_train.csv, line {where}" in message and what in message


def test_a_cut_off_last_line_is_left_out_where_this_is_asked_for(folder):
    spoiled(folder, "sample_skeleton_train.csv", lambda t: t[:-5])
    assert len(read(folder, ["click"], last_line="drop")) == 6
    with pytest.raises(SpecError, match="last_line='skip'"):
        read(folder, ["click"], last_line="skip")


def test_a_truncated_archive_is_named_with_its_line(folder):
    path = folder / "sample_skeleton_test.csv"
    packed = gzip.compress(("\n".join(TEST * 5000) + "\n").encode())
    path.unlink()
    (folder / "sample_skeleton_test.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "sample_skeleton_test.csv.gz, line" in fails(folder)
    (folder / "sample_skeleton_test.csv.gz").write_bytes(packed)
    assert len(read(folder, ["click"])) == 5006


def test_a_missing_file_is_named_before_anything_is_read(folder):
    (folder / "common_features_test.csv").unlink()
    message = fails(folder)
    assert "'common_features_test.csv'" in message and "sample_skeleton_train.csv" in message


def test_a_column_that_the_reader_does_not_have_is_named_with_the_nearest(folder):
    from tfmtl.declare.features import Column

    source = Source(reader={"name": "ali_ccp"})
    with pytest.raises(DataError, match="no column 'f_2055'.*Did you mean 'f_205'"):
        list(open_table(str(folder), {"f_2055": Column(name="f_2055", dtype="string")}, source))


def test_nothing_is_left_in_the_temporary_folder_whether_it_fails_or_not(
    folder, tmp_path_factory, monkeypatch
):
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    read(folder, ["click", "f_101"])
    assert list(temporary.iterdir()) == []
    spoiled(folder, "sample_skeleton_train.csv", lambda t: t.replace(b"\n3,1,", b"\n3,one,"))
    fails(folder)
    assert list(temporary.iterdir()) == []


def test_the_store_finds_the_last_row_of_a_key_or_all_of_them(tmp_path):
    schema = pa.schema([("key", pa.string()), ("value", pa.int64())])
    keys = [f"k{i % 700}" for i in range(100_000)]
    blocks = [
        pa.RecordBatch.from_arrays(
            [pa.array(keys[i : i + 9000]), pa.array(range(i, min(i + 9000, 100_000)))],
            schema=schema,
        )
        for i in range(0, 100_000, 9000)
    ]
    store = KeyedStore(str(tmp_path), blocks, "key", schema)
    asked = pa.array(["k3", "none", "k699", "k3"])
    last = store.last(asked)
    assert last.tolist() == [99_403, -1, 99_399, 99_403]
    assert store.take(last[[0, 2, 3]]).column(1).to_pylist() == [99_403, 99_399, 99_403]
    owner, rows = store.every(asked)
    assert store.take(rows).column(0).to_pylist() == [asked[int(i)].as_py() for i in owner]
    assert rows[owner == 0].tolist() == list(range(3, 100_000, 700))


STREAM = """
import sys
from pathlib import Path
from tfmtl.data.readers import open_table
from tfmtl.datasets.problems import preparation
prepared = preparation("ali_ccp", "aitm")
rows = sum(b.num_rows for b in open_table(sys.argv[1], prepared.problem.columns(), prepared.source))
(peak,) = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")]
print(rows, int(peak.split()[1]) / 1024)
"""


@pytest.mark.slow
def test_a_million_rows_stream_in_less_than_a_gigabyte(tmp_path):
    write_ali_ccp(str(tmp_path / "raw"), rows=1_000_000)
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / "raw")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    rows, megabytes = json.loads(f"[{done.stdout.strip().replace(' ', ',')}]")
    assert rows == 1_000_000 and megabytes < 1024
