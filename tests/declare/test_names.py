"""Names that become folders, words of a command and parts of a URL."""

import dataclasses
import json

import pytest

from tests.doubles.worlds import experiment
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import SpecError
from tfmtl.mtms.store import component_path, scene_folder, target_folder, update_folder
from tfmtl.plain import file_name

CONFIG = experiment()


@pytest.mark.parametrize(
    "name", ["shop", "Shop-2", "a.b_c", "_x", "7", "census_income", "x" * 100, "a..b"]
)
def test_a_plain_name_is_an_experiments(name):
    named = dataclasses.replace(CONFIG, name=name)
    assert ExperimentConfig.from_json(named.to_json()) == named


@pytest.mark.parametrize(
    "name",
    [
        *("../../x", "/tmp/x", "a/b", "..", ".", ".hidden", "-rf", ""),
        *("a b", "a\nb", "a:b", "a;b", "$(x)", "a'b", "a%2Fb", "a?b", "a\x1b[2J", "ads\n"),
        *("广告", "café", "x" * 101),
        *(None, 7, ("shop",)),
    ],
)
def test_a_name_that_is_a_path_a_command_or_no_plain_letters_is_refused(name):
    with pytest.raises(SpecError, match=r"name=.*becomes a folder, a served model and part of a"):
        dataclasses.replace(CONFIG, name=name)


def test_a_refused_name_is_told_with_one_that_would_be_right():
    for name, near in (("../../x", "x"), ("my ads", "my_ads"), ("a/b", "a_b")):
        with pytest.raises(SpecError, match=f"such as '{near}'"):
            dataclasses.replace(CONFIG, name=name)
    with pytest.raises(SpecError) as refused:
        dataclasses.replace(CONFIG, name="广告")
    assert "such as" not in str(refused.value)


def test_neither_json_nor_a_path_of_set_bypasses_the_rule():
    plain = json.loads(CONFIG.to_json())
    with pytest.raises(SpecError, match="becomes a folder"):
        ExperimentConfig.from_json(json.dumps({**plain, "name": "../x"}))
    with pytest.raises(SpecError, match="becomes a folder"):
        CONFIG.replace_path("name", "../x")


NAMES = ["feed", "..", ".", "a/b", "../../x", "a b", "广告", "a%2Fb", ".a", "%2E.", "x" * 300]


def test_any_name_of_the_users_is_one_file_and_no_two_are_the_same():
    files = [file_name(name) for name in NAMES]
    assert len({*files}) == len(NAMES)
    for file in files:
        assert "/" not in file and not file.startswith(".") and len(file) <= 150
    assert file_name("x" * 300) != file_name("x" * 301)


@pytest.mark.parametrize("name", NAMES)
def test_scenes_and_tasks_of_any_name_stay_in_their_slots_folder(tmp_path, name):
    slot = tmp_path / "slot"
    for path in (
        scene_folder(str(slot), name),
        update_folder(str(slot), "feed", [name]),
        component_path(str(slot), "feed", name, [name, "cvr"]),
        target_folder(str(slot), name, name),
    ):
        resolved = (tmp_path / path).resolve()
        assert resolved.is_relative_to(slot) and resolved != slot
        resolved.mkdir(parents=True, exist_ok=True)


def test_two_units_of_tasks_have_two_folders():
    one, other = (update_folder("slot", "feed", unit) for unit in (["a-b", "c"], ["a", "b-c"]))
    assert one != other
    assert update_folder("slot", "feed", ["ctr", "cvr"]).endswith("update-ctr-cvr")
