"""The page on many tasks in many scenes, followed to the letter."""

import re
import sys

import pytest

from pipeline.config import check, load
from tests.doubles.pages import ROOT, followed

PAGE = (ROOT / "docs/mtms.md").read_text()
SIZE, SMALLER = "impressions=120_000", "impressions=9_000"

# After the page's own lines: what they made is what the text says of it.
CLAIMS = """
import dataclasses
import os

import pyarrow as pa

measured = model.evaluate(tomorrow.batches(8192))
assert {"ctr/auc@imp", "cvr/auc@click", "ctcvr/auc@imp"} <= set(measured), measured
assert tfmtl.load_slot("slots/3").evaluate(tomorrow.batches(8192)) == measured
assert os.path.exists("ranker/1/saved_model.pb")


def parts():
    found = (path for path, _, names in os.walk("slots/3") if "about.json" in names)
    return {path: os.stat(f"{path}/about.json").st_mtime_ns for path in found}


before = parts()
window = log.filter(pc.and_(pc.greater(days, 0), pc.less_equal(days, 3)))
video = window.filter(pc.equal(window["scene"], "feed"))
scene = pa.array(["video"] * video.num_rows, video.schema.field("scene").type)
video = video.set_column(video.column_names.index("scene"), "scene", scene)
mtms = dataclasses.replace(EXPERIMENT.mtms, scenes=("feed", "search", "video"))
model = tfmtl.train_slot(
    dataclasses.replace(EXPERIMENT, mtms=mtms),
    tfmtl.ArrayRows(preprocessor(pa.concat_tables([window, video]))),
    slot=3, folder="slots/3", previous="slots/2",
)
after = parts()
assert {p: t for p, t in after.items() if "/video/" not in p} == before, (before, after)
assert len(after) - len(before) == 3, after
print("claims hold")
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_block_of_the_page_is_known_to_these_tests():
    assert PAGE.count("```") == 2 * (len(blocks("python")) + len(blocks("sh")))
    modules = [m for block in blocks("sh") for m in re.findall(r"python -m (\S+)", block)]
    assert modules == ["pipeline.local_runner", "tfmtl.simulator", *["pipeline.local_runner"] * 2]
    assert sum(SIZE in block for block in blocks("python")) == 1


def test_the_pages_declaration_is_a_sound_configuration(tmp_path):
    declaration = blocks("python")[0]
    assert declaration.startswith("# my_mtms.py\n")
    (tmp_path / "my_mtms.py").write_text(declaration)
    experiment = load(str(tmp_path / "my_mtms.py")).experiment
    check(experiment)
    feed = experiment.mtms.inputs_of(experiment.problem, "feed", "cvr")
    assert dict.fromkeys(scene for scene, _ in feed) == dict.fromkeys(("feed", "search"))
    search = experiment.mtms.inputs_of(experiment.problem, "search", "cvr")
    assert {scene for scene, _ in search} == {"search"}


def test_the_settings_of_the_pages_table_are_settings():
    from tfmtl import MTMS

    table = PAGE.split("## 4. Settings")[1].split("## 5.")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) > 5 and set(named) <= set(MTMS.__dataclass_fields__)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_works_as_written_on_a_smaller_log(tmp_path):
    declaration, *others = blocks("python")
    code = "\n".join([declaration, *others, CLAIMS]).replace(SIZE, SMALLER)
    (tmp_path / "page.py").write_text(code)
    assert "claims hold" in followed([sys.executable, "page.py"], tmp_path)
