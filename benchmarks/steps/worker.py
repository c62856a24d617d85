"""The process of one package: it makes the network, and runs steps when the parent asks.

The parent writes a number of steps per line to its standard input; the seconds of each step come
back as one JSON list per line, through a pipe of their own because packages print to standard
output. The first line is the versions, once the network is traced and its caches are warm.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS, NUMBERS, BATCHES = 2_048, 63, 8
EXPERTS, SPECIFIC, SHARED, LEVELS = 8, 2, 4, 2
WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        architecture: `shared_bottom`, `mmoe`, `ple` or `aitm`.
        sizes: Ids of each categorical feature.
        dim: Width of an embedding.
        units: Widths of bottoms and experts.
        tower_units: Widths of each task's tower.
        dropout: Share dropped after each hidden layer.
        batch_norm: Whether hidden layers are normalised.
    """

    architecture: str
    sizes: tuple[int, ...]
    dim: int
    units: tuple[int, ...]
    tower_units: tuple[int, ...]
    dropout: float = 0.2
    batch_norm: bool = True

    def batches(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Ids `[rows, features]` by Zipf's law, numbers and two labels; the same everywhere."""
        random = np.random.default_rng(0)
        sizes = np.array(self.sizes)
        return [
            (
                (random.zipf(1.2, (ROWS, len(sizes))) % sizes).astype(np.int64),
                random.random((ROWS, NUMBERS), np.float32),
                random.integers(0, 2, (ROWS, 2)).astype(np.float32),
            )
            for _ in range(BATCHES)
        ]


Step = Callable[[int], Any]


def serve(make: Callable[[Case], tuple[Step, dict[str, str]]]) -> None:
    """Makes the network of the case in `sys.argv[1]`, and answers until the input ends.

    The answers go to the file descriptor `sys.argv[2]`.
    """
    fields, answers = json.loads(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w")
    case = Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    step, versions = make(case)
    for turn in range(WARM_UP):
        step(turn)
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        seconds = []
        for turn in range(int(line)):
            start = time.perf_counter()
            step(turn % BATCHES)
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), file=answers, flush=True)
