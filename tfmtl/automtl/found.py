"""The result of a search, and the files in which it is kept."""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.outputs import write_pictures, write_tables
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.plain import finite, write_json, write_text


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        architecture: The network.
        experiment: The experiment with that network instead of its own, ready for `train`.
        history: One row per epoch of the search, from the first. For networks that were drawn at
            random, one row per trial; the `val_loss` of a trial that diverged is `None`.
        budget: The cost: `seconds`, `cpu_seconds`, `steps`, and `rows` read, including those of
            validation. Training the network that was found is not part of it.
    """

    architecture: Architecture
    experiment: ExperimentConfig
    history: list[dict[str, Any]]
    budget: Mapping[str, float]

    @property
    def loss(self) -> float:
        """The validation loss of the network: that of the last epoch, or of the best trial."""
        losses = [row["val_loss"] for row in self.history if row["val_loss"] is not None]
        return losses[-1] if "epoch" in self.history[-1] else min(losses)

    def save(self, directory: str) -> None:
        """Writes the result into a folder, which is made if it does not exist.

        The files are `architecture.json`, `experiment.json`, `history.json` and `budget.json`, and
        parts of the history as tables: `skip_counts.csv`, `beta_heatmap.csv` and
        `gradient_direction.csv`. `draw`, or `python -m tfmtl.automtl`, makes pictures of them.
        """
        os.makedirs(directory, exist_ok=True)
        for name, text in (
            ("architecture.json", self.architecture.to_json()),
            ("experiment.json", self.experiment.to_json()),
        ):
            write_text(os.path.join(directory, name), text)
        write_json(os.path.join(directory, "history.json"), finite(self.history), indent=1)
        write_json(os.path.join(directory, "budget.json"), dict(self.budget), indent=1)
        write_tables(directory, self.history)

    def draw(self, directory: str) -> list[str]:
        """Draws the network and its search into a folder, which is made if it does not exist.

        The files are `architecture.png`, and for a differentiable search `skip_counts.png`,
        `beta_heatmap.png` and `gradient_direction.png`. `tfmtl.draw_architecture` shows the first
        in a notebook.

        Returns:
            The pictures' paths.
        """
        return write_pictures(directory, self.architecture, self.history)


CHECKPOINTS = "checkpoints"
"""Folder of a search's checkpoints, next to the files of `Found.save`."""


class Budget:
    """The cost so far, as plain numbers, also over processes that were killed and resumed.

    Args:
        spent: The cost of former processes, changed in place; an empty dict at the start.
    """

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent
        for name in ("seconds", "cpu_seconds", "steps", "rows"):
            spent.setdefault(name, 0)
        self._seconds, self._cpu = time.perf_counter(), time.process_time()

    def add(self, steps: int, rows: int) -> None:
        """Counts steps and rows, and the time since the last call."""
        seconds, cpu = time.perf_counter(), time.process_time()
        self.spent["seconds"] += seconds - self._seconds
        self.spent["cpu_seconds"] += cpu - self._cpu
        self.spent["steps"] += steps
        self.spent["rows"] += rows
        self._seconds, self._cpu = seconds, cpu
