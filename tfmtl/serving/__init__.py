"""Serving: SavedModels with their signatures, a server, a client, the vectors of a catalogue.

The input is a trained model with its preprocessor. The output is a SavedModel for TensorFlow
Serving, vectors of a catalogue's ads, and the cost of a request. `Client` asks a served model, and
`tfmtl serve` serves one on a laptop. Nothing here trains.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfmtl.serving.client import Client as Client
    from tfmtl.serving.client import ServingError as ServingError

_HOME = {"Client": "tfmtl.serving.client", "ServingError": "tfmtl.serving.client"}

__all__ = ["Client", "ServingError"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: who exports a model needs no client.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tfmtl.serving' has no attribute {name!r}")
