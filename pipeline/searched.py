"""The report of a search: the chosen settings, or the chosen network and its pictures."""

import glob
import os
import shutil
from collections.abc import Mapping
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.found import CHECKPOINTS
from tfmtl.automtl.outputs import write_pictures
from tfmtl.plain import write_text
from tfmtl.tuning.space import ARCHITECTURE

FOLDER = "architecture"
"""The folder, below a run's outputs, of the chosen network and the files of the search."""

FILE = "architecture.json"


def lines_of(values: Mapping[str, Any], output: str) -> list[str]:
    """The lines of the report; the files of a network are copied to `FOLDER`.

    Args:
        values: The values of the Tuner's best trial.
        output: Folder of the run's outputs.
    """
    if ARCHITECTURE not in values:
        fields = ", ".join(f"{path} = {value}" for path, value in values.items())
        return [f"Found by the search: {fields}"]
    text = values[ARCHITECTURE]
    architecture, folder = Architecture.from_json(text), os.path.join(output, FOLDER)
    _collect(text, architecture, output, folder)
    return [
        f"Found by the search{_spent(architecture.search.get('budget'))}:",
        *(f"  {line}" for line in str(architecture).splitlines()),
        f"Its picture is   {os.path.join(folder, 'architecture.png')}",
        f"How it was found is in   {folder}",
    ]


def _collect(text: str, architecture: Architecture, output: str, folder: str) -> None:
    # The folder is written anew: it must not keep pictures of an earlier search.
    shutil.rmtree(folder, ignore_errors=True)
    pattern = os.path.join(glob.escape(output), "**", "found", FILE)
    for path in sorted(glob.glob(pattern, recursive=True)):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                checkpoints = shutil.ignore_patterns(CHECKPOINTS)
                shutil.copytree(os.path.dirname(path), folder, ignore=checkpoints)
                return
    # The folder of the search was deleted. The model does not depend on it.
    write_pictures(folder, architecture, ())
    write_text(os.path.join(folder, FILE), text)


def _spent(budget: Mapping[str, float] | None) -> str:
    if not budget:
        return ""
    return f" in {budget['seconds']:,.0f} s, {budget['steps']:,.0f} steps"
