"""The true probability of every event, and the final stage's prediction of it."""

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

    Indices broadcast: users `[R, 1]` with ads `[R, N]` give `[R, N]`. "conversion" is given a
    click and "survey" is given that the user is asked. All other events are per impression.

    Args:
        world: The world.
        users: User ids.
        ads: Ad ids.
        events: Names in `world.constants.events`; all of them by default.
        day: Day indices, for the ads' drifting appeal.
        scene: Scene indices; the biases of the scenes are added. Without them no bias is added,
            and, if scenes do not share users, the users are those of the first scene.
        position: Positions from 1, which lower the click logit. Without them every ad is at
            position 1.
    """
    c = world.constants
    person = users if c.shared_users or scene is None else world.people(users, scene)
    person, ads = np.broadcast_arrays(np.asarray(person, np.int64), np.asarray(ads, np.int64))
    day = np.asarray(day, np.int64)
    z, v = world.user_latent[person], world.ad_latent[ads]
    # A term is computed only if an event has it.
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
    """The final stage's predictions: the truth with an error on every logit.

    The error is normal with standard deviation `constants.final_noise`. It is a function of seed,
    request, ad and event, so that a replay has the same error as its log.

    Args:
        world: The world that gives the constants.
        logits: The logits by event, from `true_logits`.
        request: Request ids, broadcast against the logits.
        ad: Ad indices, broadcast against the logits.
        seed: Seed of the log.
    """
    streams = {name: FINAL_STAGE + i for i, name in enumerate(world.constants.events)}
    noise = world.constants.final_noise
    return {
        name: _sigmoid(logit + noise * keyed_normal(seed, streams[name], request, ad))
        for name, logit in logits.items()
    }


def cqs(constants: Constants, predictions: Mapping[str, Floats]) -> Floats:
    """The consolidated quality score: the weighted sum of the quality events' probabilities.

    It is `Σ scalar · p` over `constants.scalars`; for a survey, `p − ½` takes the place of `p`.

    Args:
        constants: The constants that give the scalars.
        predictions: The probability of each event in `constants.scalars`. True probabilities give
            the true score; the final stage's predictions give the score that models are trained
            on.
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
