"""Balancers: how the losses of several tasks become one update.

A balancer weighs the losses, or combines the tasks' gradients ("surgery"). It gets the tasks'
losses `[tasks]` and their gradients, and returns the gradients of one update. How a loss is
computed belongs to `losses`. Importing this package registers the balancers.
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
