"""Calibration curves of one task's logits, fitted with NumPy and SciPy in float64.

Every curve is made of straight lines through knots, in logits on both axes, with one slope outside
the knots. A line `a·s + b` is a curve with one knot. Steps, as isotonic regression makes them,
would tie rows and cost AUC; lines between probabilities would have wrong tails.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Floats = NDArray[np.float64]

LEAST_SLOPE = 0.05
BLOCK_ROWS, BLOCK_POSITIVES, MOST_KNOTS = 200, 5, 64
APART = 1e-6
"""Least distance of two knots, in logits."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A rising curve from logit to logit.

    Args:
        x: Knots, strictly rising.
        y: The calibrated logit at each knot, strictly rising.
        slope: The slope before the first knot and after the last.

    Raises:
        ValueError: The knots or the slope do not rise.
    """

    x: tuple[float, ...] = (0.0,)
    y: tuple[float, ...] = (0.0,)
    slope: float = 1.0

    def __post_init__(self) -> None:
        rises = all(np.all(np.diff(values) > 0) for values in (self.x, self.y))
        if not self.x or len(self.x) != len(self.y) or not rises or not self.slope > 0:
            raise ValueError(f"a calibration curve rises; got {self}.")

    def __call__(self, logits: Any) -> Floats:
        """Calibrated logits of the same shape."""
        s = np.asarray(logits, np.float64)
        inside = np.interp(s, self.x, self.y)
        below = self.y[0] + self.slope * (s - self.x[0])
        above = self.y[-1] + self.slope * (s - self.x[-1])
        between: Floats = np.where(s < self.x[0], below, np.where(s > self.x[-1], above, inside))
        return between


IDENTITY = Curve()


def platt(logits: Floats, labels: Floats) -> Curve:
    """`a·s + b` with `a ≥ 0.05`, of least log loss (Platt, 1999).

    The targets are his: `(n₁ + 1) / (n₁ + 2)` for positives and `1 / (n₀ + 2)` for negatives, which
    keep `a` finite where a split of the rows is perfect.
    """
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets = low + labels * (high - low)
    fitted = _least_loss(logits, targets, [1.0, 0.0], [(LEAST_SLOPE, None), (None, None)], (1, 1))
    return Curve((0.0,), (fitted[1],), fitted[0])


def temperature(logits: Floats, labels: Floats) -> Curve:
    """`s / T` of least log loss (Guo et al., ICML 2017)."""
    fitted = _least_loss(logits, labels, [1.0, 0.0], [(LEAST_SLOPE, None), (None, None)], (1, 0))
    return Curve((0.0,), (0.0,), fitted[0])


def offset(logits: Floats, labels: Floats) -> Curve:
    """`s + b` of least log loss: the mean prediction is then the mean label."""
    fitted = _least_loss(logits, labels, [1.0, 0.0], [(None, None), (None, None)], (0, 1))
    return Curve((0.0,), (fitted[1],), 1.0)


def isotonic(logits: Floats, labels: Floats) -> Curve:
    """Straight lines through the blocks of isotonic regression, slope 1 outside.

    Neighbouring blocks are joined until each has 200 rows and 5 positives, and there are at most 64
    of them (our choice: smaller blocks are noise). A block's knot is its mean logit and
    `logit((k + ½) / (n + 1))` of its `k` positives among `n` rows.
    """
    s, inverse = np.unique(logits, return_inverse=True)
    rows = np.bincount(inverse).astype(np.float64)
    positives = np.bincount(inverse, weights=labels)
    fit = optimize.isotonic_regression(positives / rows, weights=rows)
    starts = fit.blocks[:-1]
    blocks = [np.add.reduceat(part, starts) for part in (rows, positives, rows * s)]
    joined = _joined(np.stack(blocks, axis=1))
    x: list[float] = []
    y: list[float] = []
    for n, k, total in joined:
        knot = total / n, np.log((k + 0.5) / (n - k + 0.5))
        if not x or (knot[0] > x[-1] + APART and knot[1] > y[-1] + APART):
            x.append(float(knot[0]))
            y.append(float(knot[1]))
    return Curve(tuple(x), tuple(y), 1.0)


FITS: dict[str, Callable[[Floats, Floats], Curve]] = {
    "platt": platt,
    "temperature": temperature,
    "offset": offset,
    "isotonic": isotonic,
}


def log_loss(logits: Floats, labels: Floats) -> float:
    """Mean log loss in nats of logits."""
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


def _least_loss(
    logits: Floats,
    targets: Floats,
    start: list[float],
    bounds: list[tuple[float | None, float | None]],
    free: tuple[int, int],
) -> tuple[float, float]:
    """`a` and `b` of least log loss of `a·s + b`; those not `free` stay at their start."""
    mask = np.array(free, np.float64)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        a, b = parameters
        z = a * logits + b
        residual = 1 / (1 + np.exp(-np.clip(z, -500, 500))) - targets
        gradient = np.array([np.mean(residual * logits), np.mean(residual)]) * mask
        return float(np.mean(np.logaddexp(0.0, z) - targets * z)), gradient

    options = {"ftol": 1e-14, "gtol": 1e-10, "maxiter": 500}
    found = optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return float(found.x[0]), float(found.x[1])


def _joined(blocks: Floats) -> list[Floats]:
    """Blocks (rows, positives, sum of logits) that are large enough, and not too many."""
    large: list[Floats] = []
    waiting = np.zeros(3)
    for block in blocks:
        waiting = waiting + block
        if waiting[0] >= BLOCK_ROWS and waiting[1] >= BLOCK_POSITIVES:
            large.append(waiting)
            waiting = np.zeros(3)
    if waiting[0] and large:
        large[-1] = large[-1] + waiting
    elif waiting[0]:
        large = [waiting]
    while len(large) > MOST_KNOTS:
        sizes = [one[0] + other[0] for one, other in zip(large[:-1], large[1:], strict=True)]
        least = int(np.argmin(sizes))
        large[least : least + 2] = [large[least] + large[least + 1]]
    return large
