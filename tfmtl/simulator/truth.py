"""What truly happens: the probability of every event, and the final stage's view of it."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from tfmtl.simulator.constants import Constants
from tfmtl.simulator.noise import FINAL_STAGE, keyed_normal
from tfmtl.simulator.world import Floats, World


def true_logits(
    world: World,
    users: ArrayLike,
    ads: ArrayLike,
    *,
    events: Iterable[str] | None = None,
    day: ArrayLike = 0,
    scene: ArrayLike | None = None,
    position: ArrayLike | None = None,
) -> dict[str, Floats]:
    """The logits that events are drawn from, for pairs of users and ads.

    Indices broadcast: users `[R, 1]` with ads `[R, N]` give `[R, N]`. "conversion" is
    conditional on a click and "survey" on being asked; the others are per impression.

    Args:
        world: Whose truth.
        users: User ids.
        ads: Ad ids.
        events: Names out of `world.constants.events`; all of them by default.
        day: Day indices, for the ads' drifting appeal.
        scene: Scene indices, whose biases are added; without them none is, and users are those
            of the first scene where others have users of their own.
        position: Positions from 1, which lower the click logit; without them every ad is first.
    """
    c = world.constants
    person = users if c.shared_users or scene is None else world.people(users, scene)
    person, ads = np.broadcast_arrays(np.asarray(person, np.int64), np.asarray(ads, np.int64))
    day = np.asarray(day, np.int64)
    z, v = world.user_latent[person], world.ad_latent[ads]
    # Each term is made only for the events that have it.
    makers = {
        "relevance": lambda: np.einsum("...d,...d->...", z, v) / np.sqrt(c.latent),
        "curve": lambda: np.tanh(z[..., 0] * v[..., 1]),
        "clickbait": lambda: world.clickbait[ads],
        "skill": lambda: world.skill[ads],
        "creative": lambda: world.creative[ads],
        "appeal": lambda: world.appeal[day, ads],
        "clicker": lambda: world.clicker[person],
        "closer": lambda: world.closer[person],
    }
    terms: dict[str, Floats] = {}
    logits = {}
    for name in c.events if events is None else events:
        effects = c.events[name]
        logit = np.full(person.shape, effects.bias, np.float64)
        for term, make in makers.items():
            coefficient = getattr(effects, term)
            if coefficient:
                if term not in terms:
                    terms[term] = make()
                logit += coefficient * terms[term]
        logits[name] = logit
    if scene is not None:
        for name, biases in _scene_biases(c).items():
            if name in logits:
                logits[name] = logits[name] + biases[np.asarray(scene, np.int64)]
    if position is not None and "click" in logits:
        logits["click"] = logits["click"] + c.position * np.log2(position)
    return logits


def probabilities(logits: Mapping[str, Floats]) -> dict[str, Floats]:
    """The probability of each event, `1 / (1 + exp(-logit))`."""
    return {name: _sigmoid(logit) for name, logit in logits.items()}


def final_predictions(
    world: World,
    logits: Mapping[str, Floats],
    *,
    request: ArrayLike,
    ad: ArrayLike,
    seed: int,
) -> dict[str, Floats]:
    """What the final stage's models predict: the truth with an error on every logit.

    The error is normal with `constants.final_noise` and belongs to seed, request, ad and
    event, so that a replay meets the same error as the log.

    Args:
        world: Whose constants count.
        logits: By event, as `true_logits` gives them.
        request: Request ids, broadcast against the logits.
        ad: Ad indices, broadcast against the logits.
        seed: Of the log.
    """
    streams = {name: FINAL_STAGE + i for i, name in enumerate(world.constants.events)}
    noise = world.constants.final_noise
    return {
        name: _sigmoid(logit + noise * keyed_normal(seed, streams[name], request, ad))
        for name, logit in logits.items()
    }


def cqs(constants: Constants, predictions: Mapping[str, Floats]) -> Floats:
    """The consolidated quality score: quality events' probabilities, weighed and summed.

    `Σ scalar · p` over `constants.scalars`, a survey by its distance from a half.

    Args:
        constants: Give the scalars.
        predictions: The probability of each event in `constants.scalars`; true ones give the
            true score, the final stage's the one that models learn from.
    """
    return np.asarray(
        sum(
            scalar * (predictions[name] - (0.5 if name == "survey" else 0.0))
            for name, scalar in constants.scalars.items()
        )
    )


def _scene_biases(c: Constants) -> dict[str, Floats]:
    return {
        "click": np.asarray([scene.click for scene in c.scenes]),
        "conversion": np.asarray([scene.conversion for scene in c.scenes]),
    }


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logit))
