"""Multi-task, multi-scene ranking of ads and recommendations on TensorFlow."""

import os

# TFRS needs Keras 2, and whoever imports TensorFlow first decides what `tf.keras` is.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

from tfmtl._version import __version__  # noqa: E402

__all__ = ["__version__"]
