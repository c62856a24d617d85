"""Random weights unlike those of an initialiser: biases and moments differ from 0 and 1."""

import numpy as np


def randomise(layer, seed=0):
    """Draws new values for every weight of a built layer; moving variances stay positive."""
    rng = np.random.default_rng(seed)
    for v in layer.weights:
        drawn = rng.normal(0.0, 0.5, v.shape)
        v.assign(0.5 + np.abs(drawn) if "variance" in v.name else drawn)
