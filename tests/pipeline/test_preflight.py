"""What is refused before anything runs."""

import os
import sqlite3
from pathlib import Path

import pytest

from pipeline import local_runner, preflight
from tests.doubles.shop import write_shop
from tfmtl import durable
from tfmtl.errors import DataError, SpecError

SCHEMA = 'feature { name: "price" type: FLOAT }\n'


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("shop"))


def refused(shop, capsys, *arguments, output="output", config="shop.py") -> str:
    """The one line that a command ends with."""
    status = local_runner.main(
        [
            *("--config", str(shop / config), "--data", str(shop / "rows.csv")),
            *("--output", str(shop / output)),
            *arguments,
        ]
    )
    told = capsys.readouterr()
    (line,) = told.err.strip().splitlines()
    assert status == 1 and line.startswith("error: ") and told.out == ""
    return line


def test_an_output_that_is_a_file_is_refused(shop, capsys):
    (shop / "taken").write_text("")
    assert f"{shop}/taken is no folder" in refused(shop, capsys, output="taken")


def test_a_file_where_a_folder_of_the_output_is_to_be_is_refused(shop, capsys):
    (shop / "half").mkdir()
    (shop / "half/artifacts").write_text("")
    line = refused(shop, capsys, output="half")
    assert f"{shop}/half/artifacts is no folder" in line and "another --output" in line


def test_an_output_below_a_file_is_refused(shop, capsys):
    line = refused(shop, capsys, output="rows.csv/output")
    assert "nothing can be written to" in line and "Not a directory" in line


def test_an_output_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(preflight.tempfile, "TemporaryFile", read_only)
    with pytest.raises(DataError, match=r"nothing can be written to .*: Read-only file system\. G"):
        preflight.check_output(str(tmp_path))


def test_an_output_that_tfx_would_take_for_a_pattern_is_refused(shop, capsys):
    assert r"TFX takes [ and ] for a pattern" in refused(shop, capsys, output="out[1]")
    assert not (shop / "out[1]").exists()


def test_a_schema_that_is_not_there_is_refused_before_anything_runs(shop, capsys):
    (shop / "shop.pbtxt").write_text(SCHEMA)
    line = refused(shop, capsys, "--schema", str(shop / "shp.pbtxt"), output="unread")
    assert "--schema" in line and "no such file" in line and "Did you mean 'shop.pbtxt'?" in line
    assert not (shop / "unread").exists()
    preflight.check_schema(str(shop / "shop.pbtxt"))


@pytest.mark.parametrize("content", [b"request_id,user_id\n", b"\xff\xfe\x00", b"feature {"])
def test_a_schema_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "schema.pbtxt").write_bytes(content)
    with pytest.raises(SpecError, match="schema.pbtxt is no schema: "):
        preflight.check_schema(str(tmp_path / "schema.pbtxt"))


def metadata(folder: Path, executions: int = 1) -> Path:
    """An output with the metadata of a run."""
    folder.mkdir(exist_ok=True)
    path = folder / "metadata.sqlite"
    with sqlite3.connect(path) as database:
        database.execute('CREATE TABLE "Execution" (id INTEGER, name TEXT)')
        for number in range(executions):
            database.execute('INSERT INTO "Execution" VALUES (?, ?)', (number, "x" * 3000))
    database.close()
    (folder / "artifacts/Trainer").mkdir(parents=True)
    return path


def test_sound_metadata_pass_and_so_does_a_new_output(tmp_path):
    preflight.check_metadata(str(tmp_path / "new"))
    metadata(tmp_path / "old")
    preflight.check_metadata(str(tmp_path / "old"))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_metadata_that_were_cut_off_are_refused_with_what_to_remove(shop, capsys, share):
    path = metadata(shop / f"cut-{share}", executions=20)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    line = refused(shop, capsys, output=f"cut-{share}")
    assert f"{path} is damaged: " in line
    assert f"Remove {path} and {path.parent}/artifacts" in line


def test_metadata_that_are_something_else_are_refused(tmp_path):
    metadata(tmp_path).write_text("no database at all, but some text " * 99)
    with pytest.raises(DataError, match="is damaged: file is not a database"):
        preflight.check_metadata(str(tmp_path))


@pytest.mark.parametrize("lost", ["emptied", "removed"])
def test_artifacts_without_their_metadata_are_refused_as_new_ones_would_be_mixed_with_them(
    tmp_path, lost
):
    path = metadata(tmp_path)
    os.remove(path)
    if lost == "emptied":
        path.touch()
    state = {"emptied": "knows of no run", "removed": "is gone"}[lost]
    with pytest.raises(DataError, match=f"metadata.sqlite {state}, and .*artifacts holds"):
        preflight.check_metadata(str(tmp_path))


def test_checkpoints_alone_need_no_metadata(tmp_path):
    (tmp_path / "artifacts/checkpoints").mkdir(parents=True)
    preflight.check_metadata(str(tmp_path))


def test_rows_that_were_emptied_are_refused_instead_of_passing_for_no_rows(shop, capsys):
    metadata(shop / "emptied")
    folder = shop / "emptied/artifacts/ArrowExampleGen/examples/1"
    (folder / "Split-train").mkdir(parents=True)
    (folder / "Split-train/data-00000-of-00001.gz").touch()
    line = refused(shop, capsys, output="emptied")
    assert "data-00000-of-00001.gz, of ArrowExampleGen, is damaged: it is empty" in line
    assert f"Remove {folder}" in line


@pytest.mark.parametrize(
    ("size", "sentence"),
    [(70, "has 70 of 90 bytes"), (0, "has 0 of 90 bytes"), (None, "is missing")],
)
def test_rows_that_were_cut_off_between_two_records_are_refused(tmp_path, size, sentence):
    folder = tmp_path / "artifacts/ArrowExampleGen/examples/1"
    (folder / "Split-train").mkdir(parents=True)
    shard = folder / "Split-train/data_tfrecord-00000-of-00001"
    shard.write_bytes(b"x" * 90)
    durable.seal(str(folder), content=False)
    preflight.check_records(str(tmp_path))
    if size is None:
        shard.unlink()
    else:
        os.truncate(shard, size)
    with pytest.raises(DataError, match=sentence) as refused:
        preflight.check_records(str(tmp_path))
    assert str(shard) in str(refused.value)
    assert f"Remove {folder}; the same command makes it anew" in str(refused.value)


@pytest.mark.parametrize("status", ["0", "1", "", "'bye'"])
def test_a_configuration_that_ends_the_program_is_an_error(shop, capsys, status):
    text = f"import sys\n\nsys.exit({status})\n"
    (shop / "exits.py").write_text(text)
    line = refused(shop, capsys, config="exits.py")
    assert "exits.py, line 3: SystemExit(" in line and "only defines things" in line


def test_a_configuration_that_ends_the_program_while_it_generates_is_an_error(shop, capsys):
    text = (shop / "shop.py").read_text() + "\ndef generate(path):\n    raise SystemExit(0)\n"
    (shop / "generates.py").write_text(text)
    status = local_runner.main(
        ["--config", str(shop / "generates.py"), "--output", str(shop / "generated")]
    )
    told = capsys.readouterr().err
    assert status == 1 and "generate(…): SystemExit(0) ends the run" in told
    assert "generates.py, line " in told
    assert not [*(shop / "generated/data").glob("*")]


def test_a_run_that_is_ended_from_within_is_an_error(shop, capsys, monkeypatch):
    def run(options):
        raise SystemExit(0)

    monkeypatch.setattr(local_runner, "run", run)
    assert local_runner.main([]) == 1
    assert "error: the run was ended from within, by SystemExit(0)" in capsys.readouterr().err
