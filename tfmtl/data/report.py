"""The result of the data checks: counts, warnings and errors."""

import dataclasses
import json
from typing import Any

from tfmtl.declare.split import SPLITS


@dataclasses.dataclass
class Report:
    """Counts of a data set's rows, and what looks wrong.

    Attributes:
        rows: Rows of each split, after dropping.
        dropped: Rows left out by `ProblemSpec.drop_if`.
        left_out: Training rows left out by a `Sampling`.
        contradictions: Rows positive in one label and not in the label before, by
            `"conversion without click"`.
        tasks: Per task and split, `observed` rows, and for binary tasks `positives` and
            `negatives`, otherwise the `mean`, `least` and `most` of the label.
        missing: Rows of the first split without a value, by feature column.
        shared: Number of ids that occur in two splits, by `"request_id: train and test"`.
        sequences: Counts of each sequence's rows and events; see `sequence_checks.Tally`.
        warnings: Sentences about what should be looked at; they do not stop the run.
        errors: Sentences about what makes training pointless.
    """

    rows: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: int = 0
    left_out: int = 0
    contradictions: dict[str, int] = dataclasses.field(default_factory=dict)
    tasks: dict[str, dict[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    missing: dict[str, int] = dataclasses.field(default_factory=dict)
    shared: dict[str, int] = dataclasses.field(default_factory=dict)
    sequences: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def summary(self) -> list[str]:
        """The report as lines of text."""
        rows = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        without = [("dropped", self.dropped), ("left out by sampling", self.left_out)]
        lines = ["; ".join([f"rows: {rows}", *(f"{what} {n:,}" for what, n in without if n)])]
        for task, splits in self.tasks.items():
            parts = [f"{split} {_describe(counts)}" for split, counts in splits.items()]
            lines.append(f"task {task}: " + "; ".join(parts))
        first, count = next(iter(self.rows.items()))
        share = {c: n / max(count, 1) for c, n in self.missing.items() if n}
        if share:
            worst = sorted(share.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{column} {part:.1%}" for column, part in worst[:10])
            more = f" and {len(worst) - 10} more columns" if len(worst) > 10 else ""
            lines.append(f"missing in {first}: {shown}{more}")
        lines += [_sequence(name, counts) for name, counts in self.sequences.items()]
        lines += [f"shared ids, {what}: {count:,}" for what, count in self.shared.items()]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return lines + [f"error: {error}" for error in self.errors]


def _sequence(name: str, counts: dict[str, int]) -> str:
    rows = max(counts["rows"], 1)
    parts = [
        f"sequence {name}: {counts['kept'] / rows:.1f} events per row",
        f"{counts['empty_rows'] / rows:.1%} of rows without any",
    ]
    for what, words in (("late", "not before the row"), ("untimed", "without a time")):
        if counts[what]:
            parts.append(f"{counts[what]:,} events {words}")
    if counts["unsorted_rows"]:
        parts.append(f"{counts['unsorted_rows']:,} rows not in order, which are sorted")
    return ", ".join(parts)


def _describe(counts: dict[str, Any]) -> str:
    if not counts["observed"]:
        return "no observed rows"
    if "positives" in counts:
        share = counts["positives"] / counts["observed"]
        return f"{counts['positives']:,} of {counts['observed']:,} positive ({share:.2%})"
    return (
        f"{counts['observed']:,} observed, mean {counts['mean']:.4g}, "
        f"{counts['least']:.4g} to {counts['most']:.4g}"
    )
