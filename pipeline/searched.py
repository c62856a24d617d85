"""What a run tells of its search: the fields that were chosen, or the network and its pictures."""

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
"""Of a run's outputs, where the network and what the search kept of its course are."""

FILE = "architecture.json"


def lines_of(found: Mapping[str, Any], output: str) -> list[str]:
    """The search in words; a network's files are put into a folder of their own.

    Args:
        found: What the Tuner's best trial has.
        output: Folder of the run's outputs.
    """
    if ARCHITECTURE not in found:
        fields = ", ".join(f"{path} = {value}" for path, value in found.items())
        return [f"Found by the search: {fields}"]
    text = found[ARCHITECTURE]
    architecture, folder = Architecture.from_json(text), os.path.join(output, FOLDER)
    _collect(text, architecture, output, folder)
    return [
        f"Found by the search{_spent(architecture.search.get('budget'))}:",
        *(f"  {line}" for line in str(architecture).splitlines()),
        f"Its picture is   {os.path.join(folder, 'architecture.png')}",
        f"How it was found is in   {folder}",
    ]


def _collect(text: str, architecture: Architecture, output: str, folder: str) -> None:
    # Whole and anew: pictures of another search's course must not stand beside this network.
    shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(glob.glob(os.path.join(output, "**", "found", FILE), recursive=True)):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                checkpoints = shutil.ignore_patterns(CHECKPOINTS)
                shutil.copytree(os.path.dirname(path), folder, ignore=checkpoints)
                return
    # The search's own folder is gone, which the model does not depend on.
    write_pictures(folder, architecture, ())
    write_text(os.path.join(folder, FILE), text)


def _spent(budget: Mapping[str, float] | None) -> str:
    if not budget:
        return ""
    return f" in {budget['seconds']:,.0f} s, {budget['steps']:,.0f} steps"
