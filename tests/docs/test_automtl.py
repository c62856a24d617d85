"""The page on searching the network, followed to the letter."""

import re
import sys

import pytest

from pipeline.config import check, load
from tests.doubles.pages import ROOT, followed
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.search import AutoMTL
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS

PAGE = (ROOT / "docs/automtl.md").read_text()
SIZE, SMALLER = "--impressions 60000", "--impressions 9000"
LONG, SHORTER = "num_blocks=2, epochs=4", "num_blocks=1, epochs=2"

# After the page's own lines: what they made is what the text says of it.
CLAIMS = """
import json
import os

backbone = found.experiment.model.backbone
assert backbone["name"] == "automtl" and found.experiment.search is None
again = tfmtl.search(EXPERIMENT, prepared.data, directory="search")
assert again.architecture == found.architecture
with open("search/architecture.json") as file:
    assert tfmtl.Architecture.from_json(file.read()) == found.architecture
assert found.architecture.apply(EXPERIMENT) == found.experiment
measured = trained.model.evaluate(prepared.test.batches(8192))
assert {"ctr/auc@imp", "ctcvr/auc@imp"} <= set(measured), measured
assert os.path.exists("ranker/1/saved_model.pb")
print("claims hold")
"""
OUTPUTS = ("architecture", "beta_heatmap", "skip_counts", "gradient_direction")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def shorter(text):
    return text.replace(SIZE, SMALLER).replace(LONG, SHORTER)


def test_every_block_of_the_page_is_known_to_these_tests():
    assert PAGE.count("```") == 2 * (len(blocks("python")) + len(blocks("sh")))
    modules = [m for block in blocks("sh") for m in re.findall(r"python -m (\S+)", block)]
    runner = "pipeline.local_runner"
    assert modules == [runner, "tfmtl.simulator", runner, "tfmtl.automtl"]
    assert PAGE.count(SIZE) == PAGE.count(LONG) == 1


def test_the_pages_declaration_is_a_sound_configuration(tmp_path):
    declaration = blocks("python")[0]
    assert declaration.startswith("# my_automtl.py\n")
    (tmp_path / "my_automtl.py").write_text(declaration)
    experiment = load(str(tmp_path / "my_automtl.py")).experiment
    check(experiment)
    assert ExperimentConfig.from_json(experiment.to_json()) == experiment


def test_the_settings_of_the_pages_table_are_settings():
    table = PAGE.split("## 4. Settings")[1].split("**Random")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) > 12 and set(named) <= set(AutoMTL.__dataclass_fields__)


def test_the_paper_has_as_many_candidates_as_the_page_says():
    assert len(INTERACTIONS) == len(HIDDEN) == 13 and "13 interactions" in PAGE
    assert len(POOLINGS) == 4 and "4 poolings and 13 layers" in PAGE
    search = AutoMTL()
    assert (search.num_experts, search.num_blocks, search.epochs) == (8, 3, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_works_as_written_on_a_smaller_log(tmp_path):
    _, simulate, run, draw = blocks("sh")
    declaration, *others = blocks("python")
    (tmp_path / "my_automtl.py").write_text(shorter(declaration))
    followed(["bash", "-ec", shorter(simulate)], tmp_path)
    (tmp_path / "page.py").write_text(shorter("\n".join([declaration, *others, CLAIMS])))
    assert "claims hold" in followed([sys.executable, "page.py"], tmp_path)

    said = followed(["bash", "-ec", draw], tmp_path)
    assert "interaction" in said and "ctcvr" in said
    for name in OUTPUTS:
        assert (tmp_path / f"search/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert name == "architecture" or (tmp_path / f"search/{name}.csv").exists()

    said = followed(["bash", "-ec", run], tmp_path)
    assert "Found by the search" in said
    outputs = tmp_path / "output/my_automtl/architecture"
    for name in OUTPUTS:
        assert (outputs / f"{name}.png").exists()
