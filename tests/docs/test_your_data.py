"""The guide for newcomers, followed to the letter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import check, load

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/your_data.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


def files():
    named = (re.match(r"# (\w+\.py)\n", block) for block in blocks("python"))
    return {m.group(1): m.string for m in named if m}


def test_the_guides_configuration_is_sound(tmp_path):
    (tmp_path / "shop.py").write_text(files()["shop.py"])
    experiment = load(str(tmp_path / "shop.py")).experiment
    check(experiment)
    (fragment,) = (block for block in blocks("python") if block.startswith("tuning="))
    text = files()["shop.py"].replace("import (", "import (Tuning,")
    text = text.replace("    evaluation=", fragment.rstrip() + ",\n    evaluation=")
    (tmp_path / "search.py").write_text(text)
    check(load(str(tmp_path / "search.py")).experiment)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_of_the_guide_works_as_written(tmp_path):
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    # The guide is followed in the project's folder; here its files stay out of it.
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    (tmp_path / "tfmtl").symlink_to(ROOT / "tfmtl")
    (tmp_path / "components").symlink_to(ROOT / "components")
    done = subprocess.run(
        ["bash", "-ec", "\n".join(blocks("sh"))],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LOCAL_HOME": str(tmp_path / "tfx"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The run itself, the one with another field, and the one that TFX's command makes.
    assert done.stdout.count("Blessed: all") == 3
    assert "'ctr': 0." in done.stdout and 'Pipeline "shop" created' in done.stdout
