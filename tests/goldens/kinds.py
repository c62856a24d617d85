"""The table of kinds: what there is of each, and how one of it is recorded."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from . import library, parts
from .record import Arrays, Record
from .trainers import TRAINERS


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of thing that has goldens.

    Attributes:
        names: What the library has of it; every one needs a golden.
        record: Records the golden of a name, which may be `part-variant`.
        variants: Names of goldens besides one of each name.
    """

    names: Callable[[], tuple[str, ...]]
    record: Callable[[Record, str], None]
    variants: tuple[str, ...] = ()

    def goldens(self) -> tuple[str, ...]:
        """The names of all goldens of this kind, sorted."""
        return tuple(sorted({*self.names(), *self.variants}))


def _of_registry(kind: str, record: Callable) -> Kind:
    return _configured(kind, lambda: library.names(kind), record)


def _configured(kind: str, names: Callable[[], tuple[str, ...]], record: Callable) -> Kind:
    variants = tuple(name for name in parts.CONFIGS.get(kind, {}) if "-" in name)
    return Kind(names, lambda r, name: record(r, parts.configured(kind, name)), variants)


# A new kind of part is a row here.
KINDS: Mapping[str, Kind] = {
    "backbone": _of_registry("backbone", parts.backbone),
    "interaction": _of_registry("interaction", parts.of_fields("interaction")),
    "pooling": _of_registry("pooling", parts.of_fields("pooling")),
    "sequence_pooling": _of_registry("sequence_pooling", parts.sequence_pooling),
    "hidden": _of_registry("hidden", parts.hidden),
    "balancer": _of_registry("balancer", parts.balancer),
    "term": _of_registry("term", parts.term),
    "optimizer": _of_registry("optimizer", parts.optimizer),
    "loss": _of_registry("loss", parts.loss),
    "per_example": _configured("per_example", library.per_example_names, parts.per_example),
    "encoding": _of_registry("encoding", parts.encoding),
    "trainer": Kind(lambda: tuple(TRAINERS), lambda record, name: TRAINERS[name](record)),
}


def every_golden() -> tuple[str, ...]:
    """All goldens that there should be, as `kind/name`."""
    return tuple(f"{kind}/{name}" for kind, row in KINDS.items() for name in row.goldens())


def made(golden: str, stored: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """The arrays of a golden by the code as it is.

    Args:
        golden: `kind/name`.
        stored: What is given is taken from these; drawn without them.
    """
    kind, _, name = golden.partition("/")
    record = Record(golden, stored)
    KINDS[kind].record(record, name)
    return record.arrays
