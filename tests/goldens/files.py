"""Golden files: where they are, and how what is stored and what is made are compared."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .record import Arrays

FOLDER = Path(__file__).parent

RTOL, ATOL = 1e-5, 1e-5
"""How far a number may be from the golden's: `ATOL · largest + RTOL · |golden|`.

`largest` is the largest magnitude in the golden's array, 1 at least. TensorFlow 2.16 and 2.21 on
one machine differ by a hundredth of it, and other kernels (without oneDNN) by a quarter: gradients
below a batch normalisation are small sums of large numbers.
"""


def path_of(golden: str) -> Path:
    """The file of `kind/name`."""
    return FOLDER / f"{golden}.npz"


def stored_goldens() -> tuple[str, ...]:
    """All goldens that there are, as `kind/name`."""
    return tuple(
        sorted(
            path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.npz")
        )
    )


def load(golden: str) -> Arrays:
    """The stored arrays."""
    with np.load(path_of(golden)) as file:
        return {key: file[key] for key in file.files}


def save(golden: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Stores arrays, in place of those that are there."""
    path_of(golden).parent.mkdir(exist_ok=True)
    np.savez_compressed(path_of(golden), **arrays)


def differences(
    stored: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], *, exactly: bool = False
) -> dict[str, str]:
    """By array, how it differs from the stored one; empty where none does.

    Args:
        stored: The golden.
        made: The same arrays, by the code as it is.
        exactly: Whether numbers within the tolerance differ too.
    """
    told = {}
    for key in sorted({*stored, *made}):
        if key not in made:
            told[key] = "is in the golden, and is no longer made"
        elif key not in stored:
            told[key] = "is made, and is not in the golden"
        elif (text := _difference(stored[key], made[key], exactly)) is not None:
            told[key] = text
    return told


def _difference(stored, made, exactly):
    if stored.shape != made.shape:
        return f"has the shape {made.shape}, in the golden {stored.shape}"
    if not stored.size or np.array_equal(stored, made, equal_nan=True):
        return None
    stored, made = stored.astype(np.float64), made.astype(np.float64)
    unlike = np.isfinite(stored) != np.isfinite(made)
    infinite = ~np.isfinite(stored) & ~np.isfinite(made)
    unlike |= infinite & ~((stored == made) | (np.isnan(stored) & np.isnan(made)))
    if unlike.any():
        return f"differs in {int(unlike.sum())} numbers that are not finite"
    stored, made = np.where(infinite, 0.0, stored), np.where(infinite, 0.0, made)
    largest = max(1.0, float(np.abs(stored).max()))
    off = np.abs(made - stored)
    beyond = off > ATOL * largest + RTOL * np.abs(stored)
    if not (exactly or beyond.any()):
        return None
    worst = np.unravel_index(int(off.argmax()), off.shape)
    place = ", ".join(map(str, worst))
    return (
        f"differs by {off[worst]:.3g} at most, at [{place}]: {made[worst]:.6g}, in the golden "
        f"{stored[worst]:.6g}; {int(beyond.sum())} of {off.size} numbers are beyond the tolerance"
    )
