"""The page on early-stage ranking, followed to the letter."""

import re

import pytest

from pipeline.config import check, load
from tests.doubles.pages import ROOT, followed

PAGE = (ROOT / "docs/early_stage.md").read_text()

# After the page's own lines: what they made is what the text says of it.
CLAIMS = """
from tfmtl.simulator import replay_log
ours = replay_log(world, Funnel(), requests=REPLAYED, first_request=REQUESTS, first_day=10)
assert ours.equals(replay), "section 6 draws another world than that of ads/log"
recall = validate(trained.model)["soft_recall@20"]
assert 0.6 < recall < 1, recall
assert test.compare("rule", "model")["total_value@request"].relative.low > 0
print("claims hold")
"""
SIZES = {"REQUESTS": 6000, "REPLAYED": 300}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def command(module):
    (found,) = (block for block in blocks("sh") if f"python -m {module} " in block)
    return found


def test_every_block_of_the_page_is_known_to_these_tests():
    assert PAGE.count("```") == 2 * (len(blocks("python")) + len(blocks("sh")))
    modules = [m for block in blocks("sh") for m in re.findall(r"python -m (\S+)", block)]
    assert modules == [
        "pipeline.local_runner",
        "tfmtl.simulator",
        "tfmtl.replay",
        "pipeline.local_runner",
        "tfmtl.serving.catalogue",
    ]


def test_the_pages_declaration_is_a_sound_configuration(tmp_path):
    declaration = blocks("python")[0]
    assert declaration.startswith("# my_config.py\n")
    (tmp_path / "my_config.py").write_text(declaration)
    check(load(str(tmp_path / "my_config.py")).experiment)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_works_as_written_on_a_smaller_log(tmp_path):
    (tmp_path / "my_config.py").write_text(blocks("python")[0])
    sizes = "".join(f"{name} = {value}\n" for name, value in SIZES.items())
    (tmp_path / "page.py").write_text("\n".join([sizes, *blocks("python"), CLAIMS]))
    small = f" --requests {SIZES['REQUESTS']} --replay-requests {SIZES['REPLAYED']}\n"
    lines = [
        command("tfmtl.simulator").rstrip() + small,
        "python page.py\n",
        command("tfmtl.replay.log"),
        command("tfmtl.serving.ad_vectors"),
        # The first is `make demo CONFIG=early_stage`, and takes minutes.
        blocks("sh")[3],
    ]
    said = followed(["bash", "-ec", "".join(lines)], tmp_path)
    assert "claims hold" in said
    assert "new against old" in said and (tmp_path / "recall.png").exists()
    assert "2,000 vectors written to vectors.parquet" in said
    assert "soft recall" in said and "Pushed to" in said
