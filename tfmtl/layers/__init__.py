"""Layers that several architectures share."""

from tfmtl.layers.experts import Experts, ParallelDense
from tfmtl.layers.extraction import Extraction
from tfmtl.layers.gates import Gates
from tfmtl.layers.mlp import MLP
from tfmtl.layers.task_attention import TaskAttention

__all__ = ["MLP", "Experts", "Extraction", "Gates", "ParallelDense", "TaskAttention"]
