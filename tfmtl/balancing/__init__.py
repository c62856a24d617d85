"""The losses of several tasks to one update: weights over losses, or surgery on gradients.

In go the tasks' losses `[tasks]` and their gradients; out come the gradients of one update. What a
loss is belongs to `losses`. Importing this package registers the balancers.
"""

from tfmtl.balancing.base import Balancer, EpochEnd
from tfmtl.balancing.famo import FAMO
from tfmtl.balancing.gradnorm import GradNorm
from tfmtl.balancing.nash_mtl import NashMTL
from tfmtl.balancing.surgery import MGDA, CAGrad, PCGrad
from tfmtl.balancing.weights import DWA, FixedWeights, Uncertainty

__all__ = [
    "DWA",
    "FAMO",
    "MGDA",
    "Balancer",
    "CAGrad",
    "EpochEnd",
    "FixedWeights",
    "GradNorm",
    "NashMTL",
    "PCGrad",
    "Uncertainty",
]
