"""The search space of AutoMTL, as data.

Table 1 of "Automatic Multi-Task Learning Framework with Neural Architecture Search for
Recommender Systems"; what the paper names without a formula is as each operation's file says.

Each candidate is a label and the configuration of a registered operation; the skip-connection,
which the paper adds to every block that keeps its input's shape, comes first. A longer tuple is a
larger space: register a layer and name it.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from tfmtl import registry
from tfmtl.errors import SpecError
from tfmtl.operations.base import Operation

Candidate: TypeAlias = tuple[str, Mapping[str, Any]]

INTERACTIONS: tuple[Candidate, ...] = (
    ("skip", {"name": "skip"}),
    ("product-inner", {"name": "product_inner"}),
    ("product-outer", {"name": "product_outer"}),
    ("gate-bit", {"name": "gate_bit"}),
    ("gate-vector", {"name": "gate_vector"}),
    *((f"cross-{n}", {"name": "cross", "layers": n}) for n in (1, 2, 3, 4)),
    *((f"sa-{h}", {"name": "self_attention", "heads": h}) for h in (1, 2, 4, 8)),
)
"""13 maps of fields `[batch, fields, dim]` to fields."""

POOLINGS: tuple[Candidate, ...] = (
    ("sum", {"name": "sum"}),
    ("average", {"name": "average"}),
    ("attentive", {"name": "attentive"}),
    ("linear", {"name": "linear"}),
)
"""4 maps of fields to a vector `[batch, width]`; it is another shape, and so there is no skip."""

HIDDEN: tuple[Candidate, ...] = (
    ("skip", {"name": "skip"}),
    ("gate-hidden", {"name": "gate"}),
    *((f"mlp-{k}", {"name": "mlp", "units": k}) for k in (16, 32, 64, 128, 256, 512, 1024)),
    *((f"conv-{s}", {"name": "convolution", "size": s}) for s in (1, 3, 5, 7)),
)
"""13 maps of vectors `[batch, width]` to vectors."""

KINDS = ("interaction", "pooling", "hidden")


def operation(kind: str, candidate: Candidate, *, num: int | None = None) -> Operation:
    """Makes a candidate's layer, which is called by its label.

    Args:
        kind: `interaction`, `pooling` or `hidden`.
        candidate: A label and a configuration.
        num: Copies side by side, of a pooling or a hidden operation.

    Raises:
        SpecError: The kind or the operation is unknown, or the operation has no such argument;
            or `num` is given for an interaction.

    Example:
        >>> operation("hidden", ("mlp-16", {"name": "mlp", "units": 16}), num=8).name
        'mlp-16'
    """
    label, config = candidate
    if kind not in KINDS:
        raise SpecError(f"no operations of kind {kind!r}; kinds are {list(KINDS)}.")
    if kind == "interaction" and num is not None:
        raise SpecError(f"{label}: interactions have no copies side by side; got num={num}.")
    registry.check(kind, config)
    arguments = {k: v for k, v in config.items() if k != "name"}
    if num is not None:
        arguments["num"] = num
    built: Operation = registry.get(kind, config["name"])(**arguments, name=label)
    return built
