"""Running counts of odd values, of the range of values, and of labels."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfmtl.declare.tasks import Task


@dataclasses.dataclass
class Oddity:
    """How many rows have an odd value, and which row is the first.

    Attributes:
        rows: Rows that have it.
        first_row: The first row's number among all rows, from 0.
        example: The value there.
    """

    rows: int = 0
    first_row: int = 0
    example: float | str | None = None


class Oddities:
    """Counts of odd values by `(kind, where, what)`, the kind being `error` or `warning`."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], Oddity] = {}

    def note(
        self,
        kind: str,
        where: str,
        what: str,
        bad: NDArray[Any],
        row_numbers: NDArray[Any],
        examples: NDArray[Any] | Sequence[str] | None = None,
    ) -> None:
        """Counts rows.

        Args:
            kind: `error` or `warning`.
            where: The column, as text.
            what: What is odd, as text that follows a count: `rows have no value`.
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
            if examples is not None:
                example = examples[first]
                oddity.example = example if isinstance(example, str) else float(example)
        oddity.rows += int(bad.sum())

    def lines(self, kind: str, place: Callable[[int], str]) -> list[str]:
        """One sentence per oddity of a kind.

        Args:
            kind: `error` or `warning`.
            place: Returns the file and line of a row, by its number from 0, as text.
        """
        return [
            f"{where}: {o.rows:,} {what}, first in {place(o.first_row)}"
            + ("." if o.example is None else f" ({_shown(o.example)}).")
            for (k, where, what), o in self._seen.items()
            if k == kind
        ]


def _shown(example: float | str) -> str:
    return example if isinstance(example, str) else f"{example:g}"


@dataclasses.dataclass
class Extremes:
    """The least and the greatest value of a column, and how they compare with the others.

    Attributes:
        count: Values.
        least: The least value; infinite if there is none.
        most: The greatest value.
        size: Sum of absolute values.
    """

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    size: float = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Takes in finite values, float64 `[n]`."""
        if len(values):
            self.count += len(values)
            self.least = min(self.least, float(values.min()))
            self.most = max(self.most, float(values.max()))
            self.size += float(np.abs(values).sum())

    def largest(self) -> float:
        """The value with the greatest absolute value."""
        return self.most if self.most >= -self.least else self.least

    def steps(self) -> float | None:
        """Steps of float32 from the least to the greatest value; `None` if they are equal."""
        if self.least >= self.most:
            return None
        return (self.most - self.least) / float(np.spacing(np.float32(abs(self.largest()))))

    def times_the_rest(self) -> float:
        """The largest size divided by the mean size of the others; 0 for fewer than ten values."""
        if self.count < 10:
            return 0.0
        largest = abs(self.largest())
        rest = (self.size - largest) / (self.count - 1)
        return largest / rest if rest > 0 else 0.0


def no_labels(task: Task) -> dict[str, Any]:
    """The counts of a task's labels before the first row."""
    if task.kind == "binary":
        return {"observed": 0, "positives": 0, "negatives": 0}
    return {"observed": 0, "mean": None, "least": None, "most": None}


def add_labels(counts: dict[str, Any], task: Task, values: NDArray[Any]) -> None:
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
