"""Calls timed beside each other, and what a process has held."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


def timed(call: Callable, *arguments: Any) -> tuple[float, float]:
    """Seconds of a call, by the clock and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    # Until the values are there: a call alone may only have begun the work.
    tf.nest.map_structure(lambda value: value.numpy(), call(*arguments))
    return time.perf_counter() - clock, time.process_time() - processors


def in_turns(
    calls: Mapping[str, Callable[[int], Any]], turns: int, *, untimed: int = 0
) -> dict[str, np.ndarray]:
    """Seconds of every call by the clock, `[turns]` by name; in each turn in another order.

    Args:
        calls: Each takes the turn's number, from 0.
        turns: How often each is timed.
        untimed: Turns before those, as number 0.
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
    """The most bytes that this process has held, by Linux.

    Not `ru_maxrss`: that of a process which another has started begins at what the other held.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
