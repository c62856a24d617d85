"""Damaged files: a sentence, or all their rows; never a trace, and no row lost without a word."""

import bz2
import csv
import gzip
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import Source, open_table
from tfmtl.data.table import read_table
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_row_number
from tfmtl.errors import DataError

PROBLEM = ProblemSpec(
    features=(
        categorical("user"),
        categorical("kind", encoding="identity", size=5),
        categorical("tags", max_values=3),
        numerical("price"),
    ),
    tasks=(binary("ctr", label="click"),),
    user_id="user",
)
ROWS = 60


def frame(random):
    return pd.DataFrame(
        {
            "user": [f"u{i}" for i in random.integers(0, 20, ROWS)],
            "kind": random.integers(0, 5, ROWS),
            "tags": random.choice(["a", "a|b", "", "c|d|e"], ROWS),
            "price": random.normal(size=ROWS).round(3),
            "note": random.choice(["x" * 40, "y z" * 20, 'q"' * 10, "é"], ROWS),
            "click": random.integers(0, 2, ROWS),
        }
    )


def flip(data, random):
    damaged = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 3)):
        damaged[place] ^= 1 << random.integers(0, 8)
    return bytes(damaged)


def overwrite(data, random):
    start = random.integers(0, len(data))
    noise = random.integers(0, 256, random.integers(1, 40)).astype(np.uint8).tobytes()
    return data[:start] + noise + data[start + len(noise) :]


def truncate(data, random):
    return data[: random.integers(0, len(data))]


def cut_a_line(data, random):
    lines = data.split(b"\n")
    place = random.integers(0, len(lines))
    line = lines[place]
    lines[place] = line[: random.integers(0, len(line) + 1)]
    return b"\n".join(lines)


def join_lines(data, random):
    lines = data.split(b"\n")
    place = random.integers(0, max(len(lines) - 1, 1))
    return b"\n".join([*lines[:place], b"".join(lines[place : place + 2]), *lines[place + 2 :]])


def double_a_column(data, random):
    place = random.integers(0, 6)
    lines = [line.split(b",") for line in data.split(b"\n")]
    return b"\n".join(b",".join(cells + cells[place : place + 1]) for cells in lines)


def insert(data, random):
    start = random.integers(0, len(data))
    pieces = [b'"', b"\n", b"\r", b"\x00", b",", b"\xff", b'""', b"\xef\xbb\xbf", b"\n\n", b"\r\n"]
    return data[:start] + pieces[random.integers(0, len(pieces))] + data[start:]


DAMAGES = {
    "csv": (flip, overwrite, truncate, cut_a_line, join_lines, double_a_column, insert),
    "parquet": (flip, overwrite, truncate, insert),
}


def write(kind, random):
    if kind == "csv":
        return frame(random).to_csv(index=False).encode()
    sink = io.BytesIO()
    compression = random.choice(["snappy", "none", "zstd", "gzip"])
    pq.write_table(pa.Table.from_pandas(frame(random)), sink, compression=compression)
    return sink.getvalue()


def rows_of(data):
    """Rows that a second reader finds in text, whatever is in the columns that nobody reads."""
    text = data.decode("utf-8", "replace").replace("\0", "0")
    return sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1


def survives(kind, seed, folder):
    random = np.random.default_rng(seed)
    data = write(kind, random)
    for _ in range(random.integers(1, 3)):
        if data:
            data = DAMAGES[kind][random.integers(0, len(DAMAGES[kind]))](data, random)
    path = folder / f"t.{kind}"
    path.write_bytes(data)
    try:
        tables = read_table(str(path), PROBLEM, split=by_row_number())
    except DataError as error:
        assert str(error)
        return "refused"
    found = sum(table.num_rows for table in tables.values())
    if kind == "csv":
        assert found == rows_of(data), f"seed {seed}"
    else:
        assert found == pq.ParquetFile(path).metadata.num_rows, f"seed {seed}"
    return "read"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_damaged_files_are_refused_in_a_sentence_or_read_whole(tmp_path, kind):
    path = tmp_path / f"whole.{kind}"
    path.write_bytes(write(kind, np.random.default_rng(0)))
    tables = read_table(str(path), PROBLEM, split=by_row_number())
    assert sum(table.num_rows for table in tables.values()) == ROWS
    assert "refused" in {survives(kind, seed, tmp_path) for seed in range(30)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_many_damaged_files_are_refused_in_a_sentence_or_read_whole(tmp_path, kind):
    outcomes = [survives(kind, seed, tmp_path) for seed in range(1000, 1500)]
    assert min(outcomes.count("refused"), outcomes.count("read")) > 25


def zstd(data):
    return pa.compress(data, "zstd", asbytes=True)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, zstd])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_compressed_file_cut_short_is_refused(tmp_path, compress, share):
    random = np.random.default_rng(1)
    lines = [f"{i},{random.random()}" for i in range(50_000)]
    data = compress("\n".join(["user,price", *lines]).encode())
    (tmp_path / "t.csv").write_bytes(data[: int(len(data) * share)])
    columns = {"user": PROBLEM.columns()["user"]}
    with pytest.raises(DataError, match=str(tmp_path / "t.csv")):
        list(open_table(str(tmp_path / "t.csv"), columns))
    (tmp_path / "t.csv").write_bytes(data)
    rows = open_table(str(tmp_path / "t.csv"), columns, Source())
    assert sum(batch.num_rows for batch in rows) == 50_000
