"""What the page on many tasks in many scenes says of settings and contributors."""

import re

from tests.doubles.pages import ROOT, blocks_of
from tfmtl import MTMS


def test_the_settings_of_the_pages_table_are_settings():
    table = (ROOT / "docs/mtms.md").read_text().split("## 4. Settings")[1].split("## 5.")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) > 5 and set(named) <= set(MTMS.__dataclass_fields__)


def test_the_feed_of_the_page_also_reads_the_tables_of_the_search_page():
    (declaration,) = (block for block in blocks_of("docs/mtms.md") if block.file == "my_mtms.py")
    names = {}
    exec(declaration.text, names)
    experiment = names["EXPERIMENT"]
    feed = experiment.mtms.inputs_of(experiment.problem, "feed", "cvr")
    assert dict.fromkeys(scene for scene, _ in feed) == dict.fromkeys(("feed", "search"))
    search = experiment.mtms.inputs_of(experiment.problem, "search", "cvr")
    assert {scene for scene, _ in search} == {"search"}
