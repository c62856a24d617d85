"""The parts of an architecture: a block's operation, an expert, a task's experts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.errors import SpecError
from tfmtl.plain import freeze

SKIP = "skip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """A block's operation.

    Args:
        label: Its name in the search, such as `cross-2`.
        config: The registered operation and its arguments.
        prob: Its softmax weight among the candidates; `None` without such weights.

    Raises:
        SpecError: The operation has no name, or the weight is not from 0 to 1.
    """

    label: str
    config: Mapping[str, Any]
    prob: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.config, Mapping) or not isinstance(self.config.get("name"), str):
            raise SpecError(
                f"architecture: config={self.config!r} of {self.label!r} names no registered "
                'operation; {"name": "mlp", "units": 64} would be right.'
            )
        if self.prob is not None and not 0 <= self.prob <= 1:
            raise SpecError(
                f"architecture: prob={self.prob} of {self.label!r} is no softmax weight, which "
                "lies from 0 to 1."
            )
        freeze(self)

    @property
    def is_skip(self) -> bool:
        """Whether it is the identity, as if there was no block."""
        return self.config["name"] == SKIP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expert:
    """An expert: a pooling of the fields, and the layers above it.

    Args:
        id: Its index among the experts of the search, from 0.
        pooling: Maps the fields to a vector.
        blocks: Map vectors to vectors, from the lowest to the highest.
    """

    id: int
    pooling: Chosen
    blocks: Sequence[Chosen]

    def __post_init__(self) -> None:
        freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """A task's experts.

    Args:
        experts: Their ids.
        beta: The task's softmax weight of every expert of the search, chosen by a task or not;
            `None` without such weights.
    """

    experts: Sequence[int]
    beta: Sequence[float] | None = None

    def __post_init__(self) -> None:
        freeze(self)
