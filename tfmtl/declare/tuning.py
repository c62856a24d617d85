"""The settings of a search over fields of an experiment."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.checks import at_least, check_settings, one_of
from tfmtl.errors import SpecError
from tfmtl.plain import freeze

ALGORITHMS = ("random", "bayesian", "grid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search over experiment fields, by dotted path.

    Args:
        space: Path to candidates: a list of values, or `{"min": 1e-4, "max": 1e-2, "sampling":
            "log"}` for a range: `{"training.learning_rate": …, "model.backbone.num_experts":
            [4, 8]}`.
        trials: How many are tried.
        epochs: Epochs of a trial.
        algorithm: `random`, `bayesian` or `grid`.

    Raises:
        SpecError: A setting has the wrong type or lies out of its range.
    """

    space: Mapping[str, Any]
    trials: int = 8
    epochs: int = 2
    algorithm: str = "random"

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(
            "tuning.",
            self,
            {"trials": at_least(1), "epochs": at_least(1), "algorithm": one_of(ALGORITHMS)},
        )
        if not self.space:
            raise SpecError(
                "tuning.space is empty; name a field, such as 'training.learning_rate'."
            )
