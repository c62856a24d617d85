"""Settings of every test and doctest; at the root, so that the doctests of tfmtl/ see them too."""

import os

# Before TensorFlow is first imported: Keras 2, no chatter, and one thread per process: `make test`
# has a process per core, and at the size of tests a second thread costs more than it brings.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# LightGBM's threads wait for one another where cores are taken.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

pytest_plugins = ["tests.shards"]


@pytest.fixture(autouse=True)
def seed():
    """Seeds Python, NumPy and TensorFlow alike, so that a failure repeats."""
    import tf_keras as keras

    keras.utils.set_random_seed(7)
    return 7


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """Gives the doctests `tf` and `np`."""
    import tensorflow as tf

    doctest_namespace["tf"] = tf
    doctest_namespace["np"] = np
