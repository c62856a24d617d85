"""Layers that a configuration may choose by name, and that AutoMTL searches over.

Three kinds, by what they map: `interaction`, fields `[batch, fields, dim]` to fields; `pooling`,
fields to a vector `[batch, width]`; `hidden`, vectors to vectors of the same width. Any of them is
a plain layer, and an interaction stands in any model: `Model(interaction={"name": "cross"})`.
Importing this package registers them all. Layers that only backbones use belong to `layers`.
"""

from tfmtl.operations.base import Copies, Hidden, Interaction, Operation
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS, operation
from tfmtl.operations.convolution import Convolution
from tfmtl.operations.cross import CrossNetwork
from tfmtl.operations.gate import BitGate, HiddenGate, VectorGate
from tfmtl.operations.mlp import HiddenMLP
from tfmtl.operations.pooling import (
    AttentivePooling,
    AveragePooling,
    LinearPooling,
    Pooling,
    SumPooling,
)
from tfmtl.operations.product import InnerProduct, OuterProduct
from tfmtl.operations.self_attention import SelfAttention
from tfmtl.operations.skip import Skip

__all__ = [
    "HIDDEN",
    "INTERACTIONS",
    "POOLINGS",
    "AttentivePooling",
    "AveragePooling",
    "BitGate",
    "Convolution",
    "Copies",
    "CrossNetwork",
    "Hidden",
    "HiddenGate",
    "HiddenMLP",
    "InnerProduct",
    "Interaction",
    "LinearPooling",
    "Operation",
    "OuterProduct",
    "Pooling",
    "SelfAttention",
    "Skip",
    "SumPooling",
    "VectorGate",
    "operation",
]
