"""What the page on searching the network says of settings and sizes."""

import re

from tests.doubles.pages import ROOT
from tfmtl.declare.search import AutoMTL
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS

PAGE = (ROOT / "docs/automtl.md").read_text()


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
