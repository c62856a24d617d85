import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfmtl.data.readers import open_table
from tfmtl.declare.features import Column
from tfmtl.simulator import (
    Constants,
    daily,
    draw_world,
    impression_log,
    many_scenes,
    write_daily_log,
    write_impression_log,
)
from tfmtl.simulator.__main__ import main


def rows_of(files):
    return pa.concat_tables(map(pq.read_table, files)).combine_chunks()


def test_the_days_together_hold_the_rows_of_the_log_in_order(tmp_path):
    arguments = {"impressions": 20_000, "days": 4, "seed": 2}
    files = write_daily_log(str(tmp_path / "daily"), **arguments)
    whole = write_impression_log(str(tmp_path / "whole"), **arguments)
    assert rows_of(files).equals(rows_of(whole))


def test_a_folder_holds_one_day(tmp_path):
    out = tmp_path / "log"
    files = write_daily_log(str(out), impressions=150_000, days=3, scenes=1, rows_per_file=30_000)
    assert sorted(os.listdir(out)) == ["day-0", "day-1", "day-2"]
    for day in range(3):
        names = sorted(os.listdir(out / f"day-{day}"))
        assert names == ["part-00000.parquet", "part-00001.parquet"]
        table = rows_of(str(out / f"day-{day}" / name) for name in names)
        assert set(table["day"].to_pylist()) == {day}
        assert 45_000 < table.num_rows < 55_000
    expected = [out / f"day-{d}" / f"part-0000{p}.parquet" for d in range(3) for p in range(2)]
    assert files == list(map(str, expected))


def test_a_day_may_be_read_alone(tmp_path):
    write_daily_log(str(tmp_path / "log"), impressions=2_000, days=2)
    columns = {name: Column(name=name, dtype="float32") for name in ("day", "click")}
    batches = list(open_table(str(tmp_path / "log" / "day-1"), columns))
    assert {day for b in batches for day in b.column("day").to_pylist()} == {1}


def test_a_world_or_its_constants_may_be_given_but_not_both(tmp_path):
    constants = Constants(scenes=many_scenes(3), shared_users=False)
    files = write_daily_log(
        str(tmp_path / "a"), impressions=3_000, days=2, seed=4, constants=constants
    )
    world = draw_world(4, days=2, constants=constants)
    again = write_daily_log(str(tmp_path / "b"), impressions=3_000, days=2, seed=4, world=world)
    table = impression_log(world, impressions=3_000, days=2, seed=4)
    assert rows_of(files).equals(table) and rows_of(again).equals(table)
    assert {"scene_00", "scene_02"} < set(table["scene"].to_pylist())
    with pytest.raises(ValueError, match="either a world or constants"):
        write_daily_log(str(tmp_path / "c"), impressions=10, world=world, constants=constants)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_whole_days_and_nothing_else(tmp_path, monkeypatch, error):
    whole = rows_of(write_daily_log(str(tmp_path / "whole"), impressions=30_000, days=3))
    batches = daily.impression_batches

    def interrupted(*args, **kwargs):
        # Small batches, and the end comes amid the third day.
        for index, batch in enumerate(batches(*args, **{**kwargs, "batch_rows": 1_000})):
            if index == 25:
                raise error("stop")
            yield batch

    monkeypatch.setattr(daily, "impression_batches", interrupted)
    out = tmp_path / "log"
    with pytest.raises(error, match="stop"):
        write_daily_log(str(out), impressions=30_000, days=3)
    assert sorted(os.listdir(out)) == ["day-0", "day-1"]
    kept = rows_of(str(out / f"day-{day}" / "part-00000.parquet") for day in range(2))
    assert 19_000 < kept.num_rows < 21_000
    assert kept.equals(whole.slice(0, kept.num_rows).combine_chunks())
    assert whole["day"][kept.num_rows].as_py() == 2


def test_a_day_has_no_name_that_a_pattern_finds_before_it_is_whole(tmp_path, monkeypatch):
    out = tmp_path / "log"
    seen = []
    write = daily.write_files

    def watched(path, *args, **kwargs):
        files = write(path, *args, **kwargs)
        seen.append(sorted(p.name for p in out.glob("*") if not p.name.startswith(".")))
        assert os.path.basename(path).startswith(".")
        return files

    monkeypatch.setattr(daily, "write_files", watched)
    write_daily_log(str(out), impressions=2_000, days=3)
    assert seen == [[], ["day-0"], ["day-0", "day-1"]]


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path):
    write_daily_log(str(tmp_path), impressions=500, days=2)
    with pytest.raises(FileExistsError, match="not empty"):
        write_daily_log(str(tmp_path), impressions=500, days=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"impressions": 0}, "at least 1"),
        ({"impressions": 5, "days": 0}, "days=0"),
        ({"impressions": 5, "rows_per_file": 0}, "rows_per_file=0"),
        ({"impressions": 5, "scenes": 3}, "scenes=3"),
    ],
)
def test_impossible_numbers_are_refused_before_a_folder_is_made(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_daily_log(str(tmp_path / "log"), **wrong)
    assert not (tmp_path / "log").exists()


def test_days_without_rows_are_told(tmp_path):
    with pytest.raises(ValueError, match="impressions=12 fill . of days=9"):
        write_daily_log(str(tmp_path / "log"), impressions=12, days=9)


def test_the_command_writes_a_folder_a_day(tmp_path, capsys):
    out = str(tmp_path / "log")
    assert main(["--out", out, "--daily", "--impressions", "2500", "--days", "3"]) == 0
    assert "in 3 folders, one per day" in capsys.readouterr().out
    files = [f"{out}/day-{day}/part-00000.parquet" for day in range(3)]
    assert rows_of(files).equals(impression_log(draw_world(0), impressions=2_500, days=3))
    with pytest.raises(SystemExit):
        main(["--out", out, "--kind", "early_stage", "--daily"])
    assert "--daily belongs to --kind impressions" in capsys.readouterr().err
