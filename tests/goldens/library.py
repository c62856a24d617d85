"""All that the goldens import from the library, so that a module that moves is renamed here."""

import tfmtl
from tfmtl import registry
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.features.rows import PackedData
from tfmtl.losses import per_example as losses

__all__ = ["LABELS", "WEIGHTS", "PackedData", "loss_names", "losses", "names", "registry", "tfmtl"]


def names(kind: str) -> tuple[str, ...]:
    """The library's own parts of a kind; tests that register theirs need no golden."""
    return tuple(name for name in registry.names(kind) if _is_ours(registry.get(kind, name)))


def loss_names() -> tuple[str, ...]:
    """The public functions of `losses.per_example` but `hide`, which is no loss."""
    return tuple(
        name
        for name, part in sorted(vars(losses).items())
        if callable(part) and _is_ours(part) and not name.startswith("_") and name != "hide"
    )


def _is_ours(part) -> bool:
    return getattr(part, "__module__", "").split(".")[0] == "tfmtl"
