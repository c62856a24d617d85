"""The page on metrics: its blocks run, and its table is the registry's."""

import re
import sys

from tests.doubles.pages import ROOT, followed
from tfmtl import registry

PAGE = (ROOT / "docs/metrics.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)

CLAIMS = """
from tfmtl.evaluation.bounds import bounds

sides = {b.metric: (b.lower, b.upper) for b in bounds(PROBLEM, EXPERIMENT.evaluation)[0]}
assert sides["ctr/brier@imp"] == (None, 0.08), sides
assert tfmtl.ExperimentConfig.from_json(EXPERIMENT.to_json()) == EXPERIMENT
import my_shop

assert my_shop.CTR.metrics == ("my_shop:error_rate",)
assert my_shop.error_rate([1, 0, 0], [0.9, 0.8, 0.1]) == 1 / 3
assert my_shop.error_rate([1, 0, 0], [0.9, 0.8, 0.1], [0, 1, 1]) == 1 / 2
from tfmtl.metrics.monitor import lower_is_better

assert not lower_is_better("profit")
print("claims hold")
"""


def test_every_block_runs_and_does_what_the_text_says(tmp_path):
    declared, own, direction = BLOCKS
    assert PAGE.count("```") == 2 * len(BLOCKS) and own.startswith("# my_shop.py\n")
    (tmp_path / "my_shop.py").write_text(own)
    (tmp_path / "page.py").write_text(declared + direction + CLAIMS)
    assert followed([sys.executable, "page.py"], tmp_path) == "claims hold\n"


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
