"""Running counts: of odd values with the first place they were seen, and of labels."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfmtl.declare.tasks import Task


@dataclasses.dataclass
class Oddity:
    """How often something odd was seen, and where first.

    Attributes:
        rows: Rows that have it.
        first_row: Number of the first of them among all rows, from 0.
        example: The value there.
    """

    rows: int = 0
    first_row: int = 0
    example: float | None = None


class Oddities:
    """Counts of odd values by `(kind, where, what)`, the kind being `error` or `warning`."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], Oddity] = {}

    def note(
        self,
        kind: str,
        where: str,
        what: str,
        bad: np.ndarray,
        row_numbers: np.ndarray,
        examples: np.ndarray | None = None,
    ) -> None:
        """Counts rows.

        Args:
            kind: `error` or `warning`.
            where: The column, in words.
            what: What is odd, in words that follow a count: `rows have no value`.
            bad: Which rows are odd, bool `[rows]`.
            row_numbers: Their numbers, from 0.
            examples: Their values.
        """
        if not bad.any():
            return
        oddity = self._seen.setdefault((kind, where, what), Oddity())
        if not oddity.rows:
            first = int(np.argmax(bad))
            oddity.first_row = int(row_numbers[first])
            oddity.example = None if examples is None else float(examples[first])
        oddity.rows += int(bad.sum())

    def lines(self, kind: str, place: Callable[[int], str]) -> list[str]:
        """One sentence for each oddity of a kind.

        Args:
            kind: `error` or `warning`.
            place: Where a row stands, in words, by its number from 0.
        """
        return [
            f"{where}: {o.rows:,} {what}, first in {place(o.first_row)}"
            + ("." if o.example is None else f" ({o.example:g}).")
            for (k, where, what), o in self._seen.items()
            if k == kind
        ]


@dataclasses.dataclass
class Extremes:
    """The ends of a column's values, and how they compare with the others.

    Attributes:
        count: Values.
        least: The least; infinite of none.
        most: The greatest.
        size: Sum of absolute values.
    """

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    size: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Takes in finite values, float64 `[n]`."""
        if len(values):
            self.count += len(values)
            self.least = min(self.least, float(values.min()))
            self.most = max(self.most, float(values.max()))
            self.size += float(np.abs(values).sum())

    def largest(self) -> float:
        """The value that is furthest from 0."""
        return self.most if self.most >= -self.least else self.least

    def steps(self) -> float | None:
        """Steps of float32 between the ends; `None` where all values are one, or there is none."""
        if self.least >= self.most:
            return None
        return (self.most - self.least) / float(np.spacing(np.float32(abs(self.largest()))))

    def times_the_rest(self) -> float:
        """How many times the largest is the mean size of the others; 0 of fewer than ten."""
        if self.count < 10:
            return 0.0
        largest = abs(self.largest())
        rest = (self.size - largest) / (self.count - 1)
        return largest / rest if rest > 0 else 0.0


def no_labels(task: Task) -> dict[str, Any]:
    """Counts of a task's labels before any was seen."""
    if task.kind == "binary":
        return {"observed": 0, "positives": 0, "negatives": 0}
    return {"observed": 0, "mean": None, "least": None, "most": None}


def add_labels(counts: dict[str, Any], task: Task, values: np.ndarray) -> None:
    """Adds observed labels, float64 `[n]`, to counts that `no_labels` began.

    A soft label counts as positive above 0 and as negative below 1, so as both in between.
    """
    if not len(values):
        return
    before = counts["observed"]
    counts["observed"] = total = before + len(values)
    if task.kind == "binary":
        counts["positives"] += int((values > (0 if task.soft else 0.5)).sum())
        counts["negatives"] += int((values < (1 if task.soft else 0.5)).sum())
        return
    least, most = float(values.min()), float(values.max())
    counts["mean"] = ((counts["mean"] or 0.0) * before + float(values.sum())) / total
    counts["least"] = min(counts["least"], least) if before else least
    counts["most"] = max(counts["most"], most) if before else most
