"""Training loops."""

from tfmtl.training.fit import Trained, train

__all__ = ["Trained", "train"]
