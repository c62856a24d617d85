"""All that becomes the one number that is minimised: losses per example and terms per batch.

In go labels and logits; out come losses `[batch]` and scalars. `build(task)` makes the loss per
example that a task declares; `tfmtl.losses.base` says how to write one. How the tasks' losses are
weighed against each other belongs to `balancing`.
"""

from tfmtl.losses.base import BinaryLoss, RegressionLoss, build
from tfmtl.losses.cross_entropy import CrossEntropy
from tfmtl.losses.focal import Focal
from tfmtl.losses.label_smoothing import LabelSmoothing
from tfmtl.losses.poly1 import Poly1
from tfmtl.losses.pwiser import PWiseR
from tfmtl.losses.robust import Huber, LogCosh, PseudoHuber
from tfmtl.losses.squared import Squared
from tfmtl.losses.terms import OrderCalibration

__all__ = [
    "BinaryLoss",
    "CrossEntropy",
    "Focal",
    "Huber",
    "LabelSmoothing",
    "LogCosh",
    "OrderCalibration",
    "PWiseR",
    "Poly1",
    "PseudoHuber",
    "RegressionLoss",
    "Squared",
    "build",
]
