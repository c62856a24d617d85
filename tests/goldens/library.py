"""All that the goldens import from the library, so that a module that moves is renamed here."""

from tfmtl.features.layout import LABELS, WEIGHTS
from tfmtl.inputs import PackedData

import tfmtl

# A model needs every kind of part but the operations; importing these two registers them all.
import tfmtl.model
import tfmtl.operations
from tfmtl import losses, registry

__all__ = ["LABELS", "WEIGHTS", "PackedData", "loss_names", "losses", "names", "registry", "tfmtl"]


def names(kind: str) -> tuple[str, ...]:
    """The library's own parts of a kind; tests that register theirs need no golden."""
    return tuple(name for name in registry.names(kind) if _is_ours(registry.get(kind, name)))


def loss_names() -> tuple[str, ...]:
    """The public functions of `tfmtl.losses`, but `hide`, which is no loss and has no number."""
    return tuple(
        name
        for name, part in sorted(vars(losses).items())
        if callable(part) and _is_ours(part) and not name.startswith("_") and name != "hide"
    )


def _is_ours(part) -> bool:
    return getattr(part, "__module__", "").split(".")[0] == "tfmtl"
