"""What a run tells of its search: the fields that were chosen, or the network and its pictures."""

import glob
import os
from collections.abc import Mapping
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.outputs import write_outputs
from tfmtl.plain import write_text
from tfmtl.tuning import ARCHITECTURE

FOLDER = "architecture"


def lines_of(found: Mapping[str, Any], output: str) -> list[str]:
    """The search in words; a network is drawn into a folder of its own.

    Args:
        found: What the Tuner's best trial has.
        output: Folder of the run's outputs.
    """
    if ARCHITECTURE not in found:
        fields = ", ".join(f"{path} = {value}" for path, value in found.items())
        return [f"Found by the search: {fields}"]
    text = found[ARCHITECTURE]
    architecture, folder = Architecture.from_json(text), os.path.join(output, FOLDER)
    # No history: it lies where the search ran, which the model does not depend on.
    write_outputs(folder, architecture, ())
    write_text(os.path.join(folder, "architecture.json"), text)
    lines = [
        f"Found by the search: {architecture.line}",
        f"Its picture is   {os.path.join(folder, 'architecture.png')}",
    ]
    for path in sorted(glob.glob(os.path.join(output, "**", "architecture.json"), recursive=True)):
        with open(path, encoding="utf-8") as file:
            if os.path.dirname(path) != folder and file.read() == text:
                lines.append(f"How it was found is in   {os.path.dirname(path)}")
    return lines
