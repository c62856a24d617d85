"""Mean and standard deviation from exact sums: how rows are divided does not change a bit."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The least positive float64 is 2^-1074; `_integers` scales a mantissa by 2^53 more.
SCALE = 1074 + 53
# `x * SPLITTER` splits a float64 into halves of 26 bits (Veltkamp; Dekker, 1971).
SPLITTER = float(2**27 + 1)
LOW = 27
# Below this many values, sums of 27-bit integers are exact in float64.
AT_ONCE = 1 << 25


class Moments:
    """Mean and standard deviation of numbers that arrive in parts.

    The sums of the values and of their squares are kept as Python integers, which do not round.
    The results are therefore the same for every order and division of the values, and they do not
    suffer from cancellation: hours of epoch seconds differ in their sixth digit only.

    Example:
        >>> one, other = Moments(), Moments()
        >>> one.add(np.array([1e16, 1.0]))
        >>> other.add(np.array([-1e16]))
        >>> one.merge(other)
        >>> round(one.mean, 3), one.count
        (0.333, 3)
    """

    def __init__(self) -> None:
        self.count = 0
        # In units of 2^-SCALE and 2^-(2 * SCALE).
        self._sum = self._squares = 0
        self._finite = True

    def add(self, values: NDArray[Any]) -> None:
        """Adds values, of any shape."""
        flat = np.asarray(values, np.float64).ravel()
        for start in range(0, flat.size, AT_ONCE):
            self._add(flat[start : start + AT_ONCE])

    def merge(self, other: "Moments") -> None:
        """Adds what another has."""
        self.count += other.count
        self._sum += other._sum
        self._squares += other._squares
        self._finite &= other._finite

    @property
    def mean(self) -> float:
        """The mean, rounded once; 0 without values, NaN if one was not finite."""
        if not self._finite:
            return math.nan
        return self._sum / (self.count << SCALE) if self.count else 0.0

    @property
    def std(self) -> float:
        """The standard deviation of the values; 1 without values, NaN if one was not finite."""
        if not self._finite:
            return math.nan
        if not self.count:
            return 1.0
        # Integers divide with one rounding, however long they are.
        squared = self._squares * self.count - self._sum**2
        return math.sqrt(squared / (self.count**2 << 2 * SCALE))

    def _add(self, values: NDArray[np.float64]) -> None:
        self.count += values.size
        if not np.isfinite(values).all():
            self._finite = False
            return
        self._sum += exact_sum(values)
        split: NDArray[np.float64] = values * SPLITTER
        high: NDArray[np.float64] = split - (split - values)
        low: NDArray[np.float64] = values - high
        squared: NDArray[np.float64] = np.square(high)
        squares = exact_sum(squared)
        # A float32 has no lower half.
        if low.any():
            squares += exact_sum(2 * high * low) + exact_sum(low * low)
        self._squares += squares << SCALE


def exact_sum(values: NDArray[np.float64]) -> int:
    """The sum of at most `AT_ONCE` finite values, exactly, in units of `2^-SCALE`.

    Args:
        values: `[n]`.
    """
    if not values.size:
        return 0
    mantissas, exponents = np.frexp(values)
    integers = np.ldexp(mantissas, 53).astype(np.int64)
    least = int(exponents.min())
    places = exponents - least
    high = np.bincount(places, integers >> LOW)
    low = np.bincount(places, integers & ((1 << LOW) - 1))
    total = 0
    for place in np.flatnonzero((high != 0) | (low != 0)):
        both = (int(high[place]) << LOW) + int(low[place])
        # The exponent of a mantissa of 53 bits, which is -SCALE at least.
        total += both << (least + int(place) - 53 + SCALE)
    return total
