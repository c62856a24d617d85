"""The page on meta-training and cold starts, followed to the letter."""

import re
import sys

import pytest

from pipeline.config import check, load
from tests.doubles.pages import ROOT, followed

PAGE = (ROOT / "docs/meta.md").read_text()
SIZE, SMALLER = "--impressions 60000", "--impressions 16000"

# After the page's own lines: what they made is what the text says of it.
CLAIMS = """
assert report.models == ("plain", "meta") and report.ks == (0, 5, 20, 50)
columns = set(report.to_frame()["metric"])
assert {"ctr/auc@imp", "ctr/group_auc@imp", "ctcvr/calibration@imp"} <= columns, columns
(curve,) = {s.difference.value for s in report.curve("ctr/ne@imp", "meta")[:1]}
assert curve != 0.0
known = set(tables["train"]["advertiser_id"].to_pylist())
assert not known & set(tables["test"]["advertiser_id"].to_pylist())
print("claims hold")
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_block_of_the_page_is_known_to_these_tests():
    assert PAGE.count("```") == 2 * (len(blocks("python")) + len(blocks("sh")))
    (command,) = blocks("sh")
    assert command.startswith("python -m tfmtl.simulator ") and SIZE in command


def test_the_pages_declaration_is_a_sound_configuration(tmp_path):
    declaration = blocks("python")[0]
    assert declaration.startswith("# my_meta.py\n")
    named = {}
    exec(declaration, named)
    named["META"].check_problem(named["PROBLEM"])
    (tmp_path / "my_meta.py").write_text(declaration + "\nEXPERIMENT = PLAIN\n")
    check(load(str(tmp_path / "my_meta.py")).experiment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_works_as_written_on_a_smaller_log(tmp_path):
    (command,) = blocks("sh")
    followed([sys.executable, *command.replace(SIZE, SMALLER).split()[1:]], tmp_path)
    (tmp_path / "page.py").write_text("\n".join([*blocks("python"), CLAIMS]))
    said = followed([sys.executable, "page.py"], tmp_path)
    assert "claims hold" in said and (tmp_path / "cold_start.png").exists()
