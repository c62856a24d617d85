"""Draws many scenes, for tests and benchmarks with up to fifty of them."""

import numpy as np

from tfmtl.simulator.constants import Scene


def many_scenes(count: int, *, seed: int = 0) -> tuple[Scene, ...]:
    """Draws scenes named `scene_00`, `scene_01`, …, with traffic by Zipf's law.

    Scene `k` has `1 / (k + 1)` of the requests of the first scene, so most scenes are sparse.
    Their rates, ages and pools differ about as much as those of `FEED` and `SEARCH` (our choice).
    A scene does not depend on `count`.

    Args:
        count: Number of scenes.
        seed: Seed of everything but names and shares.

    Raises:
        ValueError: `count` is not positive.

    Example:
        >>> [(scene.name, round(scene.share, 2)) for scene in many_scenes(3)]
        [('scene_00', 1.0), ('scene_01', 0.5), ('scene_02', 0.33)]
    """
    if count < 1:
        raise ValueError(f"count={count}; at least 1 makes sense.")
    return tuple(_scene(index, seed) for index in range(count))


def _scene(index: int, seed: int) -> Scene:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, index)))
    return Scene(
        name=f"scene_{index:02d}",
        share=1.0 / (index + 1),
        click=1.2 + 0.3 * rng.standard_normal(),
        conversion=-0.1 + 0.3 * rng.standard_normal(),
        age=0.3 * rng.standard_normal(),
        pool=rng.uniform(0.4, 0.8),
    )
