"""All that becomes the one number that is minimised: losses per example and terms per batch.

In go labels and logits; out come losses `[batch]` and scalars. How the tasks' losses are weighed
against each other belongs to `balancing`.
"""

from tfmtl.losses.pwiser import PWiseR
from tfmtl.losses.terms import OrderCalibration

__all__ = ["OrderCalibration", "PWiseR"]
