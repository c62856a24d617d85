"""Noise as a function of keys: the same keys always give the same value."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)

# The kinds of noise. Kinds that concern events use one stream per event, from this number up.
FINAL_STAGE, OUTCOME, EARLY_CVR, LOGGING_POLICY, SAMPLING = 0, 100, 200, 300, 400


def keyed_normal(seed: int, stream: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Standard normal values, each determined by its keys only.

    A replay therefore scores a request and ad with the same error as its log, in any order of
    rows. Bits are mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Two
    halves of 32 bits give one normal value (Box and Muller, 1958), so no value exceeds about 6.7.

    Args:
        seed: Seed of the run, not negative.
        stream: Number of the kind of noise, not negative.
        *keys: Integers, not negative, of shapes that broadcast, such as request and ad.

    Returns:
        The shape that the keys broadcast to.
    """
    state = _keyed_bits(seed, stream, keys)
    first = ((state >> np.uint64(32)).astype(np.float64) + 0.5) / 2.0**32
    second = (state & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)


def keyed_uniform(seed: int, stream: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform values in `[0, 1)`, each determined by its keys only; see `keyed_normal`.

    Two arms that show the same ad for the same request therefore get the same outcome.
    """
    return (_keyed_bits(seed, stream, keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _keyed_bits(seed: int, stream: int, keys: tuple[ArrayLike, ...]) -> NDArray[np.uint64]:
    state = _mix(np.asarray([seed], np.uint64), np.uint64(stream))
    for key in keys:
        state = _mix(state, np.asarray(key).astype(np.uint64))
    return state[0] if all(np.ndim(key) == 0 for key in keys) else state


def _mix(state: NDArray[np.uint64], key: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    # The overflow is intended. NumPy arrays overflow silently; NumPy scalars would warn.
    x = state + (key + np.asarray([1], np.uint64)) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
