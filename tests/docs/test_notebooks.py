"""Notebooks run from top to bottom: small in the quick lane, as they are in the slow one."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.shards import used

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
# What stands for what in the quick lane: less of the same, so that each cell runs in seconds.
SMALLER = {
    "01_quickstart": {"impressions=100_000": "impressions=6_000", "epochs=4": "epochs=1"},
    "02_early_stage": {
        "requests=6_000, replay_requests=1_000": "requests=1_500, replay_requests=100",
        "epochs=8, batch_size=512": "epochs=1, batch_size=512",
        "requests=2_000": "requests=200",
    },
    "03_mtms": {
        "impressions=210_000": "impressions=12_000",
        "for day in (2, 3, 4)": "for day in (3, 4)",
        ".slice(0, 8_000)": ".slice(0, 800)",
    },
    "04_automtl": {
        "impressions=60_000": "impressions=6_000",
        "num_blocks=2": "num_blocks=1",
        "epochs=8": "epochs=2",
        "epochs=6": "epochs=1",
    },
    "05_sequences": {"impressions=60_000": "impressions=5_000", "epochs=6": "epochs=1"},
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(notebook):
    """Runs a notebook in the project's folder; returns its cells of code."""
    NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(NOTEBOOKS[0].parent.parent)}},
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each_notebook
def test_a_notebook_runs_on_less_of_the_same(path):
    notebook = nbformat.read(path, as_version=4)
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert [large for large in SMALLER[path.stem] if large not in text] == []
    for cell in notebook.cells:
        for large, small in SMALLER[path.stem].items():
            if cell.cell_type == "code":
                cell.source = cell.source.replace(large, small)
    assert run(notebook)[-1].outputs


@pytest.mark.slow
@pytest.mark.timeout(1500)
@each_notebook
def test_a_notebook_runs_in_under_five_minutes(path):
    started = used()
    assert run(nbformat.read(path, as_version=4))[-1].outputs
    # Of two cores; other tests run at the same time, so that the clock would tell of them too.
    assert used() - started < 2 * 300


@each_notebook
def test_a_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or not cell.outputs
