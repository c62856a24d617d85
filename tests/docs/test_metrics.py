"""The page on metrics: its table is the registry's."""

import re

from tests.doubles.pages import ROOT
from tfmtl import registry

PAGE = (ROOT / "docs/metrics.md").read_text()


def test_the_table_names_every_metric_with_its_kinds_and_direction():
    listed = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for place, name in enumerate(re.findall(r"`(\w+)`", cells[0])):
                directions = cells[2].split(", ")
                best = directions[min(place, len(directions) - 1)]
                listed[name] = float(best) if best.isdigit() else best
    declared = {name: m.best for name, m in registry.parts("metric").items()}
    # The table breaks off in a replay's, and says so.
    unlisted = {n for n, m in registry.parts("metric").items() if "replay" in m.kinds}
    assert {n: b for n, b in declared.items() if n in listed} == listed
    assert set(declared) - set(listed) <= unlisted | {"group_auc"}
