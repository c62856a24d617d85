"""Notebooks run from top to bottom."""

import os
import time
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_in_under_five_minutes(path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(path.parent.parent)}},
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ).execute()
    assert time.perf_counter() - started < 300
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[-1].outputs


def test_notebooks_are_committed_without_outputs():
    import nbformat

    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or not cell.outputs, path.name
