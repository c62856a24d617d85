"""The one table of small configurations: a row per registered part, for every test of all parts.

A new part gets one row here and is then held to the contract of its kind.
"""

from typing import Any

from tfmtl import registry

KINDS = ("backbone", "interaction", "pooling", "hidden", "sequence_pooling")

_ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "backbone": {
        "single_task": {"bottom_units": (8,)},
        "shared_bottom": {"bottom_units": (8,)},
        "omoe": {"num_experts": 3, "expert_units": (8,)},
        "mmoe": {"num_experts": 3, "expert_units": (8,)},
        "cgc": {"expert_units": (8,)},
        "ple": {"expert_units": ((8,), (8,))},
        "esmm": {"units": (8,)},
        "man": {"expert_units": ((8,),)},
        "adatt": {"expert_units": ((8,), (6,)), "num_specific": 2},
        "aitm": {"bottom_units": (8,)},
        "automtl": {
            "experts": (
                {"pooling": {"name": "linear"}, "blocks": ({"name": "gate"}, {"name": "skip"})},
                {"pooling": {"name": "sum"}, "blocks": ({"name": "mlp", "units": 8},)},
                {"pooling": {"name": "attentive"}, "blocks": ({"name": "convolution"},)},
            )
        },
        "dnn": {"units": (8,)},
        "masknet": {"units": (8, 8)},
        "star": {"units": (8,), "aux_units": (4,)},
        "per_scene": {"bottom_units": (8,), "task_units": (4,)},
        "two_tower": {"user_units": (8,), "ad_units": (8,), "width": 4},
    },
    "interaction": {
        "cross": {"layers": 2, "rank": 2},
        "gate_bit": {},
        "gate_vector": {},
        "product_inner": {},
        "product_outer": {"rank": 3},
        "self_attention": {"heads": 2},
        "skip": {},
    },
    "pooling": {"attentive": {}, "average": {}, "linear": {"width": 5}, "sum": {"width": 5}},
    "hidden": {
        "convolution": {"size": 3, "channels": 2},
        "gate": {},
        "mlp": {"units": 6},
        "skip": {},
    },
    "sequence_pooling": {
        "attentive": {},
        "bst": {"heads": 2, "units": 6},
        "decay": {"rate": 0.5},
        "din": {"units": (5,)},
        "max": {},
        "mean": {},
        "self_attention": {"heads": 2},
        "sum": {},
        "target_attention": {"heads": 2},
        "tim": {},
    },
}


class _Table(dict[str, dict[str, Any]]):
    """Small configurations of one kind, which say how to add a row where there is none."""

    def __init__(self, kind: str) -> None:
        super().__init__(_ROWS[kind])
        self.kind = kind

    def __missing__(self, name: str) -> dict[str, Any]:
        raise LookupError(missing_row(self.kind, name))


def missing_row(kind: str, name: str) -> str:
    """Says which row the table needs for a part."""
    part = registry.get(kind, name)
    return (
        f"{kind} {name!r} ({part.__module__}) has no small configuration: add the row "
        f"{name!r}: {{…}} with arguments that make it a few units wide to _ROWS[{kind!r}] in "
        "tests/doubles/small_parts.py. Its contract tests then run by themselves."
    )


def table_errors(kind: str) -> list[str]:
    """What is wrong with the table: parts without a row, and rows without a part."""
    # Other tests register parts of their own, which need no row.
    ours = (
        n for n in registry.names(kind) if registry.get(kind, n).__module__.startswith("tfmtl.")
    )
    registered, rows = set(ours), set(SMALL[kind])
    return [
        *(missing_row(kind, name) for name in sorted(registered - rows)),
        *(
            f"no {kind} is registered as {name!r}: remove its row from _ROWS[{kind!r}] in "
            "tests/doubles/small_parts.py."
            for name in sorted(rows - registered)
        ),
    ]


SMALL = {kind: _Table(kind) for kind in KINDS}
"""By kind and name, a small configuration without its name."""
