"""Layers that several architectures share."""

from tfmtl.layers.mlp import MLP

__all__ = ["MLP"]
