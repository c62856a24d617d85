"""Does sharing help? What each task gains over a model of its own, and signs of why.

A task that is worse together than alone suffers negative transfer. Beside the gain stand the
cosines of the tasks' gradients on what they share, below 0 where one's step undoes another's, and
what the gates do: whether tasks use experts of their own or all the same.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmtl.metrics.bootstrap import Interval
from tfmtl.plain import finite
from tfmtl.text import aligned
from tfmtl.transfer.gates import GateUse

HELPED, HURT, NO_DIFFERENCE = "helped", "hurt", "no difference"
NOT_MEASURED = "not measured"

Matrix = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskTransfer:
    """One task together with the others, and alone.

    Args:
        metric: Full name of what is compared, as `cvr/auc@click`.
        together: The metric of the multi-task model, by seed.
        alone: That of the single-task twin of the same seed.
        gain: Mean over seeds of how much better together is, in the metric's unit; of a loss or
            an error, how much smaller.
    """

    metric: str
    together: tuple[float, ...]
    alone: tuple[float, ...]
    gain: Interval

    @property
    def verdict(self) -> str:
        """`helped` or `hurt` (negative transfer) where the gain's interval excludes 0.

        `no difference` where it does not, or there is none: none was shown, which is not to say
        that there is none. `not measured` where the metric is not defined.
        """
        if math.isnan(self.gain.value):
            return NOT_MEASURED
        if self.gain.low > 0:
            return HELPED
        return HURT if self.gain.high < 0 else NO_DIFFERENCE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosines:
    """How the tasks' gradients lie to each other on shared variables, in training.

    Args:
        tasks: The trained tasks, unserved ones among them.
        epochs: `[epochs][K][K]`, each epoch's mean over its measurements and over the seeds that
            trained so long; NaN where a task had no gradient.
    """

    tasks: tuple[str, ...]
    epochs: tuple[Matrix, ...]

    @property
    def mean(self) -> Matrix:
        """`[K][K]`, the mean over the epochs."""
        return matrix(mean_of([np.array(epoch) for epoch in self.epochs]))

    def of(self, first: str, second: str) -> tuple[float, ...]:
        """The cosine of two tasks, epoch by epoch."""
        i, j = self.tasks.index(first), self.tasks.index(second)
        return tuple(epoch[i][j] for epoch in self.epochs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What `negative_transfer` found.

    Args:
        seeds: Seeds trained with.
        tasks: By served task, its gain.
        cosines: Of the multi-task model; `None` where tasks share no variable.
        gates: Of the multi-task model on test rows; empty without gates. Entropies are means over
            the seeds. `use` is the first seed's: experts of two seeds have nothing in common but
            their number.
        over: What the intervals are over: `seeds` (Student's t), or of a single seed `requests`
            or `rows` (paired bootstrap).
        level: Of the intervals.
    """

    seeds: tuple[int, ...]
    tasks: Mapping[str, TaskTransfer]
    cosines: Cosines | None
    gates: tuple[GateUse, ...]
    over: str
    level: float = 0.95

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes an equal report; undefined values are null.

        Verdicts and mean cosines are in it, for those who read the data alone.
        """
        plain = dataclasses.asdict(self)
        for name, task in self.tasks.items():
            plain["tasks"][name]["verdict"] = task.verdict
        if self.cosines is not None:
            plain["cosines"]["mean"] = self.cosines.mean
        return finite(plain)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "TransferReport":
        """The report that `to_json` wrote, also after JSON."""
        tasks = {
            name: TaskTransfer(
                metric=task["metric"],
                together=_numbers(task["together"]),
                alone=_numbers(task["alone"]),
                gain=Interval(*_numbers(task["gain"][end] for end in ("value", "low", "high"))),
            )
            for name, task in plain["tasks"].items()
        }
        cosines = plain["cosines"]
        if cosines is not None:
            cosines = Cosines(
                tasks=tuple(cosines["tasks"]),
                epochs=tuple(tuple(map(_numbers, epoch)) for epoch in cosines["epochs"]),
            )
        return cls(
            seeds=tuple(plain["seeds"]),
            tasks=tasks,
            cosines=cosines,
            gates=tuple(gate_from_json(gate) for gate in plain["gates"]),
            over=plain["over"],
            level=plain["level"],
        )

    def __str__(self) -> str:
        lines = aligned(
            [
                ["metric", "alone", "together", f"gain [{self.level:.0%}]", "verdict"],
                *(
                    [
                        task.metric,
                        f"{np.mean(task.alone):.4f}",
                        f"{np.mean(task.together):.4f}",
                        format(task.gain, "+.4f"),
                        task.verdict,
                    ]
                    for task in self.tasks.values()
                ),
            ]
        )
        seeds = ", ".join(map(str, self.seeds))
        seeds = f"seeds {seeds}" if len(self.seeds) > 1 else f"seed {seeds} alone"
        lines.append(f"{seeds}; intervals over {self.over}; a gain above 0 is better together")
        if self.cosines is not None:
            lines += ["", *_cosine_lines(self.cosines)]
        for gate in self.gates:
            lines += ["", *_gate_lines(gate)]
        return "\n".join(lines)


def epoch_cosines(
    logs: Sequence[Sequence[Mapping[str, float]]], tasks: Sequence[str], steps: int
) -> Cosines:
    """Cosines by epoch, of what `GradientLog` noted.

    A measurement belongs to the epoch whose steps came before it. The one before the first step
    is of random weights and left out.

    Args:
        logs: Rows of the log, by seed.
        tasks: The trained tasks.
        steps: Steps of an epoch.
    """
    by_epoch: dict[int, list[np.ndarray]] = {}
    for log in logs:
        mine: dict[int, list[np.ndarray]] = {}
        for row in log:
            if row["step"]:
                epoch = (int(row["step"]) - 1) // steps
                mine.setdefault(epoch, []).append(_matrix_of(row, tasks))
        # By seed first: a seed counts once, however often it was measured.
        for epoch, matrices in mine.items():
            by_epoch.setdefault(epoch, []).append(mean_of(matrices))
    nothing = [np.full((len(tasks), len(tasks)), np.nan)]
    epochs = range(max(by_epoch, default=-1) + 1)
    return Cosines(
        tasks=tuple(tasks),
        epochs=tuple(matrix(mean_of(by_epoch.get(epoch, nothing))) for epoch in epochs),
    )


def mean_of(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of what is defined, by cell; NaN where nothing is."""
    stack = np.stack(matrices)
    there = ~np.isnan(stack)
    count = there.sum(axis=0)
    total = np.where(there, stack, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def matrix(array: np.ndarray) -> Matrix:
    """A matrix as plain numbers, which can be compared and written."""
    return tuple(tuple(row) for row in array.tolist())


def gate_from_json(plain: Mapping[str, Any]) -> GateUse:
    """The gates' use that `dataclasses.asdict` wrote."""
    return GateUse(
        gate=plain["gate"],
        readers=tuple(plain["readers"]),
        experts=tuple(plain["experts"]),
        use=tuple(map(_numbers, plain["use"])),
        entropy=_numbers(plain["entropy"]),
    )


def _matrix_of(row, tasks):
    found = np.eye(len(tasks))
    for i, task in enumerate(tasks):
        if math.isnan(row[f"norm/{task}"]):
            found[i, i] = np.nan
    for i, j in itertools.combinations(range(len(tasks)), 2):
        found[i, j] = found[j, i] = row[f"cosine/{tasks[i]}/{tasks[j]}"]
    return found


def _cosine_lines(cosines: Cosines) -> list[str]:
    rows = zip(cosines.tasks, cosines.mean, strict=True)
    cells = [[name, *(f"{value:+.3f}" for value in row)] for name, row in rows]
    heading = f"gradient cosines, mean over {len(cosines.epochs)} epochs"
    return aligned([[heading, *cosines.tasks], *cells])


def _gate_lines(gate: GateUse) -> list[str]:
    cells = [
        [reader, f"{entropy:.3f}", f"{even:.2f}", *(f"{w:.3f}" for w in use)]
        for reader, entropy, even, use in zip(
            gate.readers, gate.entropy, gate.evenness, gate.use, strict=True
        )
    ]
    return aligned([[gate.gate, "entropy, nats", "of log E", *gate.experts], *cells])


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in values)
