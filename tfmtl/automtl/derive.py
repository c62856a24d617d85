"""Derives a network from the weights of a search."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.parts import SKIP, Chosen, Expert, Selection
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.operations.candidates import HIDDEN, INTERACTIONS, POOLINGS, Candidate

Alphas = Mapping[str, ArrayLike | None]
"""Logits by kind: `interaction` `[candidates]`, or none without a block of interactions;
`pooling` `[experts, candidates]`; `hidden` `[experts, blocks, candidates]`. If all experts have the
same architecture, the first axis of the latter two is 1."""


def candidates_of(search: AutoMTL) -> dict[str, tuple[Candidate, ...]]:
    """The candidates of each kind of block: `interaction`, `pooling` and `hidden`.

    Args:
        search: The search's settings.
    """
    return {
        "interaction": tuple(search.interactions or INTERACTIONS),
        "pooling": tuple(search.poolings or POOLINGS),
        "hidden": tuple(search.hidden or HIDDEN),
    }


def derive(
    search: AutoMTL,
    alphas: Alphas,
    beta: ArrayLike | None,
    tasks: Sequence[str],
    /,
    **more: Any,
) -> Architecture:
    """The derived network: the operation with the largest weight per block, and experts per task.

    This is section 3.4.1 of the paper. Of equal weights the first is taken. Experts that no task
    chose are left out.

    Args:
        search: The search's settings.
        alphas: The architecture's logits; see `Alphas`.
        beta: `[tasks, experts]`, the tasks' logits of the experts; `None` without a selection:
            then every task gets all experts.
        tasks: Task names, in the order of `beta`.
        **more: Further fields of `Architecture`, such as `frozen_ops`, `dataset` or `search`.

    Raises:
        SpecError: Logits are not finite, or have another shape than the settings require.

    Example:
        >>> search = AutoMTL(num_experts=1, num_blocks=0, interaction=False)
        >>> alphas = {"pooling": [[0, 0, 2, 1]], "hidden": np.zeros([1, 0, 13])}
        >>> derive(search, alphas, [[0.0]], ["ctr"]).line
        'expert 0: attentive | ctr: 0'
    """
    candidates, logits = candidates_of(search), _checked(search, alphas)
    pooling, hidden = (softmax(_by_expert(search, logits[k])) for k in ("pooling", "hidden"))
    experts = [
        Expert(
            id=i,
            pooling=_heaviest(candidates["pooling"], pooling[i]),
            blocks=[_heaviest(candidates["hidden"], weights) for weights in hidden[i]],
        )
        for i in range(search.num_experts)
    ]
    shares: list[tuple[float, ...] | None] = [None] * len(tasks)
    if beta is not None:
        logits_of_experts = _array("beta", beta, (len(tasks), search.num_experts))
        shares = [tuple(row) for row in softmax(logits_of_experts).tolist()]
        chosen = first_of(logits_of_experts, search.chosen_of(len(tasks)))
    else:
        chosen = [tuple(range(search.num_experts))] * len(tasks)
    first = logits["interaction"]
    return _without_unchosen(
        search,
        experts,
        {
            task: Selection(experts=ids, beta=share)
            for task, ids, share in zip(tasks, chosen, shares, strict=True)
        },
        None if first is None else _heaviest(candidates["interaction"], softmax(first)),
        more,
    )


def sample(
    rng: np.random.Generator, search: AutoMTL, tasks: Sequence[str], /, **more: Any
) -> Architecture:
    """Draws a network of the space; all of them are equally likely.

    Args:
        rng: Source of randomness; the same state gives the same network.
        search: The search's settings.
        tasks: Task names.
        **more: Further fields of `Architecture`.
    """
    candidates = candidates_of(search)

    def one(kind: str) -> Chosen:
        label, config = candidates[kind][rng.integers(len(candidates[kind]))]
        return Chosen(label=label, config=config)

    interaction = one("interaction") if search.interaction else None
    experts: list[Expert] = []
    for i in range(search.num_experts):
        if experts and not search.heterogeneous:
            pooling, blocks = experts[0].pooling, experts[0].blocks
        else:
            pooling, blocks = one("pooling"), [one("hidden") for _ in range(search.num_blocks)]
        experts.append(Expert(id=i, pooling=pooling, blocks=blocks))
    count = search.chosen_of(len(tasks))
    chosen = {
        task: Selection(
            experts=sorted(rng.choice(search.num_experts, count, replace=False).tolist())
        )
        for task in tasks
    }
    return _without_unchosen(search, experts, chosen, interaction, more)


def skip_count(search: AutoMTL, alphas: Alphas) -> tuple[int, int]:
    """The number of blocks of the supernet that are skips now, and the number that could be.

    The latter are the block of interactions and every layer of every expert, chosen or not.

    Args:
        search: The search's settings.
        alphas: The architecture's logits; see `Alphas`.
    """
    candidates, logits = candidates_of(search), _checked(search, alphas)
    hidden = _by_expert(search, logits["hidden"])
    skips = sum(candidates["hidden"][i][1]["name"] == SKIP for i in np.argmax(hidden, axis=-1).flat)
    blocks = search.num_experts * search.num_blocks
    if logits["interaction"] is not None:
        first = candidates["interaction"][int(np.argmax(logits["interaction"]))]
        skips, blocks = skips + (first[1]["name"] == SKIP), blocks + 1
    return int(skips), blocks


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """`exp(x) / Σ exp(x)` over the last axis, in double precision."""
    x = np.asarray(logits, np.float64)
    if not x.size:
        return x
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def first_of(logits: ArrayLike, count: int) -> list[tuple[int, ...]]:
    """The positions of the `count` largest values per row, ascending; of equal ones the first.

    Args:
        logits: `[rows, positions]`.
        count: Number of positions.

    Example:
        >>> first_of([[0.5, 0.9, 0.5]], 2)
        [(0, 1)]
    """
    order = np.argsort(-np.asarray(logits, np.float64), axis=-1, kind="stable")
    return [tuple(sorted(row[:count].tolist())) for row in order]


def _heaviest(candidates: Sequence[Candidate], weights: NDArray[np.float64]) -> Chosen:
    place = int(np.argmax(weights))
    label, config = candidates[place]
    return Chosen(label=label, config=config, prob=float(weights[place]))


def _without_unchosen(
    search: AutoMTL,
    experts: Sequence[Expert],
    tasks: Mapping[str, Selection],
    interaction: Chosen | None,
    more: Mapping[str, Any],
) -> Architecture:
    chosen = {i for selection in tasks.values() for i in selection.experts}
    return Architecture(
        experts=[expert for expert in experts if expert.id in chosen],
        tasks=tasks,
        interaction=interaction,
        n_chosen=search.chosen_of(len(tasks)),
        num_experts=search.num_experts,
        tower_units=search.tower_units,
        **more,
    )


def _by_expert(search, logits):
    return np.broadcast_to(logits, (search.num_experts, *logits.shape[1:]))


def _checked(search, alphas):
    candidates = candidates_of(search)
    architectures = search.num_experts if search.heterogeneous else 1
    shapes = {
        "interaction": (len(candidates["interaction"]),),
        "pooling": (architectures, len(candidates["pooling"])),
        "hidden": (architectures, search.num_blocks, len(candidates["hidden"])),
    }
    if (alphas.get("interaction") is None) == search.interaction:
        raise SpecError(
            f"alphas: search.interaction={search.interaction}, and the interaction's logits are "
            f"{'missing' if search.interaction else 'given'}."
        )
    return {
        kind: None if alphas.get(kind) is None else _array(f"alphas[{kind!r}]", alphas[kind], shape)
        for kind, shape in shapes.items()
    }


def _array(name, values, shape):
    array = np.asarray(values, np.float64)
    if array.shape != shape:
        raise SpecError(f"{name}: shape {array.shape} is not {shape}, as the settings ask for.")
    if not np.isfinite(array).all():
        raise SpecError(f"{name}: logits are not finite: {array.tolist()}.")
    return array
