"""The settings of an architecture search (AutoMTL)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import Limit, at_least, below, check_settings, one_of
from tfmtl.errors import SpecError
from tfmtl.plain import freeze

ALGORITHMS = ("differentiable", "random")
STOPPING = ("consecutive", "window", "none")
DIRECTIONS = ("half", "cosine")
OPTIMIZERS = ("adam", "sgd")

Named = tuple[str, Mapping[str, Any]]

LIMITS: Mapping[str, Limit] = {
    "algorithm": one_of(ALGORITHMS),
    "stopping": one_of(STOPPING),
    "direction": one_of(DIRECTIONS),
    "embedding_optimizer": one_of(OPTIMIZERS),
    "num_experts": at_least(1),
    "num_blocks": at_least(0),
    "patience": at_least(1),
    "window": at_least(1),
    "epochs": at_least(1),
    "warm_up_epochs": at_least(0),
    "search_patience": at_least(1),
    "trials": at_least(1),
    "tower_units": at_least(1),
    "aux_weight": at_least(0),
    "threshold": at_least(0),
    "learning_rate": at_least(0),
    "architecture_rate": at_least(0),
    "embedding_rate": at_least(0),
    "momentum": below(0, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoMTL:
    """A search for the network of an experiment.

    After "Automatic Multi-Task Learning Framework with Neural Architecture Search for Recommender
    Systems", sections 3.3 and 3.4.

    The search decides the interaction of the fields, each expert's pooling and layers, and which
    experts each task reads. Hidden vectors are as wide as the experiment's `model.dim`. The other
    fields of its `Model` apply, with these exceptions: `backbone` and `interaction` are the
    search's result, `tower_units` are set here, and of `balancer` only the weights of a `fixed` one
    are read; with any other, tasks weigh the same during the search (the paper's equivalent
    weights). Training rows train the weights, validation rows the architecture.

    Args:
        num_experts: Experts.
        num_blocks: Layers of an expert after its pooling (the paper does not print it; our choice).
        n_chosen: Experts that each task gets. The paper tunes it, fewer for more tasks; if not
            given, half of the experts for up to two tasks and three in eight for more.
        interactions: Candidates, each a label and a registered operation, of the paper's Table 1 if
            not given; see `tfmtl.operations.candidates`. So are `poolings` and `hidden`.
        poolings: Candidates for fields to a vector.
        hidden: Candidates for a vector to a vector.
        interaction: False leaves the fields as they are (the paper's "w/o Int").
        heterogeneous: False gives all experts one architecture, each with its own weights ("hom
            Exp").
        selection: False mixes all experts by gates, in the search and after ("w/o Sel").
        aux_weight: Weight of the loss that makes tasks choose different experts, falling to zero
            after the warm-up; 0 leaves it out ("w/o Aux").
        stopping: When an operation's weights stop: `consecutive`, after `patience` consecutive
            steps whose training and validation gradients differ by more than `threshold`; `window`,
            when the mean similarity over `window` steps is too low; `none` ("w/o OLES").
        direction: How gradients differ: `half`, (1 − cos)/2, or `cosine`, 1 − cos.
        threshold: As above.
        patience: As above.
        window: As above.
        auxiliary_skip: Adds the input to every block's output by a weight that falls to zero, as
            DARTS− does.
        epochs: Most epochs of the search.
        warm_up_epochs: Epochs before the search begins to choose among experts.
        search_patience: Epochs without a better validation loss before the search stops; where it
            chooses among experts, epochs of the warm-up do not count.
        learning_rate: Of the weights, by SGD, falling to zero by a cosine.
        momentum: Momentum of that SGD.
        architecture_rate: Of the architecture, and of the choice of experts, each by an Adam.
        embedding_optimizer: `adam`, row-wise with `embedding_rate`, or `sgd` as in the paper's
            text, which hardly changes rows that are rarely looked up.
        embedding_rate: As above.
        algorithm: `differentiable`, or `random`: `trials` architectures drawn evenly, each
            trained as the experiment says, the one with the least validation loss taken
            (AutoMTL-R).
        trials: As above.
        tower_units: Widths of each task's tower, in the search and after.

    Raises:
        SpecError: A setting is unknown or out of range.
    """

    num_experts: int = 8
    num_blocks: int = 3
    n_chosen: int | None = None
    interactions: Sequence[Named] | None = None
    poolings: Sequence[Named] | None = None
    hidden: Sequence[Named] | None = None
    interaction: bool = True
    heterogeneous: bool = True
    selection: bool = True
    aux_weight: float = 0.1
    stopping: str = "consecutive"
    direction: str = "half"
    threshold: float = 0.5
    patience: int = 20
    window: int = 20
    auxiliary_skip: bool = False
    epochs: int = 10
    warm_up_epochs: int = 2
    search_patience: int = 3
    learning_rate: float = 0.01
    momentum: float = 0.9
    architecture_rate: float = 1e-3
    embedding_optimizer: str = "adam"
    embedding_rate: float = 1e-3
    algorithm: str = "differentiable"
    trials: int = 10
    tower_units: Sequence[int] = (64,)

    def __post_init__(self) -> None:
        freeze(self)
        check_settings("search.", self, LIMITS)
        chosen = self.n_chosen
        if chosen is not None and not 1 <= chosen <= self.num_experts:
            raise SpecError(
                f"search.n_chosen={chosen!r} of {self.num_experts} experts; a whole number from 1 "
                f"to {self.num_experts} would be right."
            )

    def chosen_of(self, num_tasks: int) -> int:
        """Experts that each of so many tasks gets."""
        if not self.selection:
            return self.num_experts
        if self.n_chosen is not None:
            return self.n_chosen
        share = 1 / 2 if num_tasks <= 2 else 3 / 8
        return max(1, round(share * self.num_experts))
