"""Presets and preparations: what the papers print, and that every one of them trains."""

import dataclasses
import json

import pytest

from tfmtl.datasets.presets import PRESETS, PWISER_TERM, preset
from tfmtl.datasets.problems import PREPARATIONS, preparation
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import binary
from tfmtl.errors import SpecError


def test_mtreclib_s_sizes_are_as_its_code_has_them():
    model, training = preset("mtreclib").model("mmoe"), preset("mtreclib").training()
    assert (model.dim, model.tower_units, model.tower_dropout) == (128, (128, 64), 0.2)
    assert model.backbone["num_experts"] == 8 and model.backbone["expert_units"] == (512, 256)
    assert model.backbone["dropout"] == 0.2 and model.backbone["batch_norm"]
    assert (training.batch_size, training.learning_rate, model.l2) == (2048, 1e-3, 1e-6)


def test_aitm_s_and_man_s_and_automtl_s_sizes_are_as_printed():
    aitm = preset("aitm")
    assert aitm.model("aitm").dim == 5 and aitm.training().batch_size == 2000
    assert aitm.model("aitm").backbone["bottom_units"] == (128, 64, 32)
    man = preset("man").model("man")
    assert man.tower_units == (128, 16, 32) and man.backbone["expert_units"] == ((256, 128),)
    assert preset("automtl").model("mmoe").dim == 64
    assert preset("automtl_aliexpress").model("mmoe").dim == 128
    assert (PWISER_TERM["weight"], PWISER_TERM["margin_click"]) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("name", "backbone"), [(p.name, b) for p in PRESETS.values() for b in p.backbones]
)
def test_every_backbone_of_every_preset_is_an_experiment(name, backbone):
    prepared = preparation("ali_ccp", "aitm")
    problem = prepared.problem
    if backbone == "esmm":
        between = binary("cvr", label="conversion", observed_if="click", served=False)
        problem = dataclasses.replace(problem, tasks=(problem.tasks[0], between, problem.tasks[1]))
    made = ExperimentConfig(
        name="x",
        problem=problem,
        split=prepared.split,
        model=preset(name).model(backbone),
        training=preset(name).training(),
    )
    assert ExperimentConfig.from_json(made.to_json()) == made


def test_a_change_of_a_preset_is_one_field_and_an_unknown_name_lists_the_known():
    assert preset("man").model("mmoe", dim=16).dim == 16
    assert preset("man").training(epochs=1).epochs == 1
    with pytest.raises(SpecError, match="no preset 'mtrec'.*Did you mean 'mtreclib'"):
        preset("mtrec")
    with pytest.raises(SpecError, match="no backbone 'star'"):
        preset("man").model("star")
    with pytest.raises(SpecError, match="no preparation 'fuxi'"):
        preparation("aliexpress", "fuxi")


def test_aitm_s_preparation_is_its_eighteen_columns_seen_twelve_times():
    problem = preparation("ali_ccp", "aitm").problem
    names = "101 121 122 124 125 126 127 128 129 205 206 207 216 508 509 702 853 301".split()
    assert {f.name for f in problem.features} == {f"f_{name}" for name in names}
    assert {f.encoding["min_count"] for f in problem.features} == {12}
    assert problem.drop_if == ("click", "conversion")


def test_automtl_s_preparations_have_the_printed_numbers_of_columns():
    kinds = {
        name: [f.kind for f in preparation(name, "automtl").problem.features]
        for name in PREPARATIONS
    }
    counts = {n: (k.count("categorical"), k.count("numerical")) for n, k in kinds.items()}
    assert counts == {
        "ali_ccp": (23, 8),
        "aliexpress": (16, 63),
        "user_behavior": (3, 0),
        "ijcai15": (7, 0),
    }


@pytest.mark.parametrize(
    ("data_set", "name"), [(d, n) for d, names in PREPARATIONS.items() for n in names]
)
def test_a_source_of_a_preparation_survives_its_json(data_set, name):
    from tfmtl.data.sources import Source

    source = preparation(data_set, name).source
    assert Source(**json.loads(json.dumps(source.to_json()))) == source
