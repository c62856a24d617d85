"""Layers that several architectures share: embeddings, experts, gates, multi-layer perceptrons.

In go tensors, out come tensors; each layer is a plain Keras layer. A whole architecture belongs to
`backbones`; a layer that a configuration may choose by name belongs to `operations`.
"""

from tfmtl.layers.experts import Experts, ParallelDense
from tfmtl.layers.extraction import Extraction
from tfmtl.layers.fields import Fields
from tfmtl.layers.gates import Gates
from tfmtl.layers.mlp import MLP
from tfmtl.layers.task_attention import TaskAttention

__all__ = ["MLP", "Experts", "Extraction", "Fields", "Gates", "ParallelDense", "TaskAttention"]
