"""Training loops."""

from tfmtl.training.alternating import load_slot, train_slot
from tfmtl.training.fit import Trained, train

__all__ = ["Trained", "load_slot", "train", "train_slot"]
