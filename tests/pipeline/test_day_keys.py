"""What a day's result depends on, and the records of days that are damaged."""

import pytest

from pipeline import slots
from pipeline.config import load
from pipeline.daily import Day, Place
from pipeline.days import Log, known_days
from tests.doubles.daily_shop import shop


@pytest.fixture
def experiment(tmp_path):
    shop(tmp_path)
    return load(str(tmp_path / "shop.py")).experiment


def test_another_schema_runs_the_days_again(tmp_path, experiment):
    path, days = tmp_path / "schema.pbtxt", [Day(span=2, first=0)]

    def key(given=str(path)):
        return slots.keys_of(experiment, None, given, {0: "", 1: "", 2: ""}, days)[2]

    path.write_text('feature { name: "price" type: FLOAT }')
    first = key()
    assert first == key() != key(None)
    path.write_text('feature { name: "price" type: INT }')
    assert key() != first


def test_a_record_of_a_day_that_was_cut_off_is_said_and_the_day_run_again(tmp_path, capsys):
    (tmp_path / "3.json").write_text('{"key": "abc", "name": "day-3"')
    (tmp_path / "metadata.sqlite").touch()
    place = Place(
        pipeline_root=str(tmp_path),
        serving_dir=str(tmp_path),
        metadata_path=str(tmp_path / "metadata.sqlite"),
    )
    assert slots._recorded(str(tmp_path), 3, "abc", place) is None
    said = capsys.readouterr().out
    assert f"{tmp_path}/3.json is damaged" in said and "The day is run again." in said


def test_a_list_of_known_days_that_was_cut_off_is_said_and_made_anew(tmp_path, experiment, capsys):
    log, path = Log(str(tmp_path / "log")), tmp_path / "known.json"
    first = known_days(log, str(path))
    path.write_text(path.read_text()[:-9])
    assert known_days(log, str(path)) == first
    assert "known.json is damaged" in capsys.readouterr().out
    assert known_days(log, str(path)) == first
    assert capsys.readouterr().out == ""
