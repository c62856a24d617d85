"""Noise that belongs to a key, so that whoever asks again gets the same value."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

# The kinds of noise. Those of events take one stream an event, from the number on.
FINAL_STAGE, OUTCOME, EARLY_CVR, LOGGING_POLICY, SAMPLING = 0, 100, 200, 300, 400


def keyed_normal(seed: int, stream: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Standard normal values, each a function of its keys alone.

    A replay scores the same request and ad with the same error as the log it replays, in
    whatever order the rows come. Bits are mixed by the finaliser of SplitMix64 (Steele, Lea
    and Flood, OOPSLA 2014), and two halves of 32 bits make a normal value (Box and Muller,
    1958), so that values end at about 6.7.

    Args:
        seed: Of the run, not negative.
        stream: Keeps kinds of noise apart, not negative.
        *keys: Integers, not negative, of shapes that broadcast, such as request and ad.

    Returns:
        The shape that the keys broadcast to.
    """
    state = _keyed_bits(seed, stream, keys)
    first = ((state >> np.uint64(32)).astype(np.float64) + 0.5) / 2.0**32
    second = (state & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)


def keyed_uniform(seed: int, stream: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform values in `[0, 1)`, each a function of its keys alone; see `keyed_normal`.

    Two arms that show the same ad to the same request thereby see the same outcome.
    """
    return (_keyed_bits(seed, stream, keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _keyed_bits(seed: int, stream: int, keys: tuple[ArrayLike, ...]) -> NDArray[np.uint64]:
    state = _mix(np.asarray([seed], np.uint64), np.uint64(stream))
    for key in keys:
        state = _mix(state, np.asarray(key).astype(np.uint64))
    return state[0] if all(np.ndim(key) == 0 for key in keys) else state


def _mix(state: NDArray[np.uint64], key: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    # Arrays wrap around silently, as meant; scalars of NumPy would warn.
    x = state + (key + np.asarray([1], np.uint64)) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
