"""Times of calls that run in turns, and the peak memory of a process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def timed(call: Callable, *arguments: Any) -> tuple[float, float]:
    """Seconds of a call, by the clock and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    # Waits for the values, because the call itself may return before the work is done.
    tf.nest.map_structure(lambda value: value.numpy(), call(*arguments))
    return time.perf_counter() - clock, time.process_time() - processors


def in_turns(
    calls: Mapping[str, Callable[[int], Any]], turns: int, *, untimed: int = 0
) -> dict[str, np.ndarray]:
    """Seconds of each call by the clock, `[turns]` by name. Each turn has another order.

    Args:
        calls: Functions of the number of the turn, from 0.
        turns: How often each call is timed.
        untimed: Number of turns before, which are not timed; they get the number 0.
    """
    order = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-untimed, turns):
        for name in order.permutation(list(calls)):
            taken, _ = timed(calls[name], max(turn, 0))
            if turn >= 0:
                seconds[name].append(taken)
    return {name: np.array(taken) for name, taken in seconds.items()}


def peak_memory() -> int:
    """The peak memory of this process in bytes, from Linux.

    `ru_maxrss` is not used: in a child process, it starts with the parent's value.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
