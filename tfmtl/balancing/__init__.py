"""The losses of several tasks to one update: weights over losses, or surgery on gradients.

In go the tasks' losses `[tasks]` and their gradients; out come the gradients of one update. What a
loss is belongs to `losses`. Importing this package registers the balancers.
"""

from tfmtl.balancing.base import Balancer, EpochEnd
from tfmtl.balancing.gradnorm import GradNorm
from tfmtl.balancing.surgery import MGDA, CAGrad, PCGrad
from tfmtl.balancing.weights import DWA, FixedWeights, Uncertainty

__all__ = [
    "DWA",
    "MGDA",
    "Balancer",
    "CAGrad",
    "EpochEnd",
    "FixedWeights",
    "GradNorm",
    "PCGrad",
    "Uncertainty",
]
