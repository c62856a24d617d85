"""Configurations of public data sets: raw files to a pushed model, and what --source changes."""

import argparse
import os

import pytest

from pipeline import local_runner
from pipeline.config import check, load
from tfmtl.errors import SpecError

NAMES = ("ali_ccp", "aliexpress", "user_behavior", "ijcai15")


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_reads_raw_files_and_writes_some_if_none_are_given(name, tmp_path):
    config = load(name)
    check(config.experiment)
    assert config.source.reader["name"] == name and config.generate is not None


def changed(*settings):
    options = argparse.Namespace(source=list(settings))
    return local_runner.with_source(load("aliexpress"), options).source


def test_source_replaces_a_field_of_the_source_and_of_its_reader():
    source = changed("reader.country=US", "last_line=drop")
    assert source.reader["country"] == "US" and source.last_line == "drop"
    assert source.reader["split"] == "by_search"
    assert changed() == load("aliexpress").source


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reader.country", "PATH=VALUE"),
        ("last_lines=drop", "Did you mean 'last_line'"),
        ("last_line=skip", "keep, drop"),
    ],
)
def test_a_wrong_source_setting_says_what_would_be_right(setting, message):
    with pytest.raises(SpecError, match=message):
        changed(setting)


SMALL = ["--set", "model.dim=4", "--epochs", "1"]
NARROW = [
    *("--set", "model.backbone.num_experts=2"),
    *("--set", "model.backbone.expert_units=(8,)"),
    *("--set", "model.tower_units=(8,)"),
]


def any_quality(name):
    """So few rows say nothing about a model's."""
    problem = load(name).experiment.problem
    bounds = {problem.metric_name(task, "auc"): 0.0 for task in problem.tasks}
    return ["--set", f"evaluation.bounds={bounds}"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_raw_files_become_a_pushed_model(name, tmp_path, capsys):
    from tfmtl.simulator.__main__ import RAW

    RAW[name](str(tmp_path / "raw"), rows=12_000, seed=5)
    argv = ["--config", name, "--data", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    argv += [*SMALL, *any_quality(name), *(NARROW if name != "ali_ccp" else [])]
    assert local_runner.main(argv) == 0
    versions = os.listdir(tmp_path / "out" / "serving" / name)
    assert len(versions) == 1
    assert "Pushed to" in capsys.readouterr().out


@pytest.mark.slow
def test_a_damaged_file_stops_the_pipeline_with_its_line_and_leaves_no_rows(tmp_path, capsys):
    from tfmtl.simulator import write_user_behavior

    write_user_behavior(str(tmp_path / "raw"), rows=8_000, cut_off=True)
    argv = ["--config", "user_behavior", "--data", str(tmp_path / "raw")]
    assert local_runner.main([*argv, "--output", str(tmp_path / "out"), *SMALL, *NARROW]) == 1
    message = capsys.readouterr().err
    assert "UserBehavior.csv, line" in message and "last_line='drop'" in message
    left = [name for _, _, names in os.walk(tmp_path / "out" / "artifacts") for name in names]
    assert not [name for name in left if "tfrecord" in name or name.startswith("unnamed")]
