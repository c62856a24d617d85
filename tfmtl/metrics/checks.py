"""What every metric refuses, and the weighted mean that most of them are."""

import contextlib
from collections.abc import Iterator

import numpy as np
from absl import logging
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def checked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, *, real: bool = False
) -> tuple[Floats, Floats, Floats]:
    """Returns labels, scores and weights as float64 `[n]`, after refusing what no metric can take.

    Args:
        labels: `[n]`, in `[0, 1]` unless `real`.
        scores: `[n]`, not NaN.
        weights: `[n]`, finite and not negative; ones where not given.
        real: Whether labels are any finite number instead.
    """
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    if y.ndim != 1 or not y.shape == s.shape == w.shape:
        raise ValueError(
            "labels, scores and weights must be vectors of one length; got shapes "
            f"{y.shape}, {s.shape} and {w.shape}."
        )
    if not np.isfinite(y).all() or (not real and ((y < 0) | (y > 1)).any()):
        wanted = "finite" if real else "in [0, 1]"
        raise ValueError(f"labels must be {wanted}; got {_range(y)}.")
    if np.isnan(s).any():
        raise ValueError(f"scores must be numbers; got {_range(s)}.")
    if not np.isfinite(w).all() or (w < 0).any():
        raise ValueError(f"weights must be finite and not negative; got {_range(w)}.")
    return y, s, w


def checked_probabilities(
    labels: ArrayLike,
    predictions: ArrayLike,
    weights: ArrayLike | None,
    from_logits: bool = False,
) -> tuple[Floats, Floats, Floats]:
    """As `checked`, and refuses what is no probability or, with `from_logits`, no finite logit."""
    y, p, w = checked(labels, predictions, weights)
    if from_logits and not np.isfinite(p).all():
        raise ValueError("logits must be finite.")
    if not from_logits and ((p < 0) | (p > 1)).any():
        raise ValueError(
            "predictions must be probabilities in [0, 1]; got values from "
            f"{p.min():g} to {p.max():g}. Logits need from_logits=True."
        )
    return y, p, w


def mean_of(values: Floats, weights: Floats, name: str) -> float:
    """The weighted mean of `[n]` values; NaN with a warning that names it where nothing weighs."""
    total = weights.sum()
    if not total > 0:
        logging.warning("%s is nan: it has no rows, or none with a weight.", name)
        return float("nan")
    return float(np.dot(weights, values) / total)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silences warnings, for slices and resamples in which a missing class is ordinary."""
    # The logger's own level: absl's verbosity, once set, would hide information for ever.
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _range(values: Floats) -> str:
    bad = int((~np.isfinite(values)).sum())
    finite = values[np.isfinite(values)]
    seen = f"values from {finite.min():g} to {finite.max():g}" if len(finite) else "no number"
    return f"{seen}, {bad} of {len(values)} not finite"
