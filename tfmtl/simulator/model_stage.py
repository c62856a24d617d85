"""Trained models as the simulator's early stage.

A world has few users and ads, so each one is packed only once and pairs are gathered from these
rows. A two-tower model computes each vector once, as it would in serving.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.total_value import TotalValue
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.towers import join_vectors, tower_vector
from tfmtl.simulator.candidate_rows import early_columns
from tfmtl.simulator.columns import user_fields
from tfmtl.simulator.funnel import EarlyStage, auction_value
from tfmtl.simulator.retrieval import Candidates
from tfmtl.simulator.world import Floats, World

PAIRS = 1 << 16
AD_COLUMNS = ("ad_id", "category", "advertiser_id", "objective", "bid")

Transform = Callable[[Mapping[str, object]], Mapping[str, tf.Tensor]]
Predict = Callable[[Candidates], Mapping[str, Floats]]
Pairs = Callable[[tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]]


def model_stage(
    world: World, predictors: Mapping[str, Predict], *, value: TotalValue | None = None
) -> EarlyStage:
    """An early stage that ranks by the predictions of models.

    Args:
        world: Users and ads.
        predictors: The predictor of each task that `value` names: `{"ctr": …, "cqs": …}`. The
            tasks may share a predictor, which then runs once per call.
        value: The total value; by default `auction_value` of the world.
    """
    value = value or auction_value(world.constants)
    names = np.asarray(list(world.constants.objectives))
    clicks, converts = value.needs(names)

    def early_value(candidates: Candidates) -> Floats:
        predictions: dict[int, Mapping[str, Floats]] = {}
        for predictor in predictors.values():
            if id(predictor) not in predictions:
                predictions[id(predictor)] = predictor(candidates)
        by_task = {task: predictions[id(p)][task] for task, p in predictors.items()}
        objective = candidates.objective
        pctr = by_task[value.ctr]
        return value.combine(
            pctr,
            candidates.early_cvr,
            by_task[value.cqs] if value.cqs else np.zeros_like(pctr),
            candidates.bid,
            clicks[objective],
            converts[objective],
            xp=np,
        )

    return early_value


def predictor(world: World, model: MultiTaskModel, transform: Transform) -> Predict:
    """A model's predictions for every candidate, `{task: [R, N]}`, for its served tasks.

    Args:
        world: Users and ads.
        model: A model trained on the features of the simulator's early-stage logs.
        transform: Raw columns to packed tensors, such as a fitted `Preprocessor`.

    Raises:
        ValueError: A feature depends on the request or on the pair, or has the wrong `side`. It
            cannot be packed once per user or once per ad.
    """
    _check_sides(world, model.problem)
    packed = _packed(world, transform)
    if model.backbone.tower_sides is not None:
        pairs = _by_vectors(model, packed)
    else:
        pairs = _by_rows(model, packed)
    users = world.constants.users
    tasks = [task.name for task in model.problem.served]

    def predict(candidates: Candidates) -> dict[str, Floats]:
        shape = candidates.ad.shape
        user = (candidates.scene * users + candidates.user)[:, None]
        user, ad = np.broadcast_to(user, shape).ravel(), candidates.ad.ravel()
        parts: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
        for start in range(0, len(ad), PAIRS):
            rows = slice(start, start + PAIRS)
            predictions = pairs(tf.constant(user[rows]), tf.constant(ad[rows]))
            for task in tasks:
                parts[task].append(predictions[task].numpy())
        return {t: np.concatenate(p).astype(np.float64).reshape(shape) for t, p in parts.items()}

    return predict


def _check_sides(world: World, problem: ProblemSpec) -> None:
    of_user = ("scene", *(name for name, _ in user_fields(world.constants)))
    for feature in problem.features:
        known = AD_COLUMNS if feature.side == "ad" else of_user
        for column in feature.columns():
            if column.name not in known:
                raise ValueError(
                    f"feature {feature.name!r} of side {feature.side!r} reads {column.name!r}; "
                    f"users and ads are packed separately, so only {list(known)} can be read."
                )


def _packed(world: World, transform: Transform) -> dict[str, tf.Tensor]:
    """Packed tensors of all users in all scenes, scene by scene, and of all ads."""
    c = world.constants
    scene = np.repeat(np.arange(len(c.scenes)), c.users)
    sides = {
        "user": (np.tile(np.arange(c.users), len(c.scenes)), np.zeros(len(scene), int), scene),
        "ad": (np.zeros(c.ads, int), np.arange(c.ads), np.zeros(c.ads, int)),
    }
    sides["context"] = sides["user"]
    packed: dict[str, tf.Tensor] = {}
    cache: dict[int, Mapping[str, tf.Tensor]] = {}
    for side, (user, ad, scenes) in sides.items():
        if id(user) not in cache:
            one = Candidates(
                request=np.zeros(len(user), int),
                user=user,
                day=np.zeros(len(user), int),
                scene=scenes,
                ad=ad[:, None],
                objective=world.objective[ad][:, None],
                bid=world.bid[ad][:, None],
                early_cvr=np.zeros((len(ad), 1)),
            )
            rows = np.arange(len(user))
            cache[id(user)] = transform(early_columns(world, one, rows, np.zeros_like(rows)))
        tensors = cache[id(user)]
        for name in (f"ids_{side}", f"numbers_{side}"):
            if name in tensors:
                packed[name] = tf.convert_to_tensor(tensors[name])
    return packed


def _by_rows(model: MultiTaskModel, packed: Mapping[str, tf.Tensor]) -> Pairs:
    @tf.function(reduce_retracing=True)
    def pairs(user: tf.Tensor, ad: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return model.predict_served(
            {n: tf.gather(v, ad if n.endswith("_ad") else user) for n, v in packed.items()}
        )

    return pairs


def _by_vectors(model: MultiTaskModel, packed: Mapping[str, tf.Tensor]) -> Pairs:
    user_vectors, ad_vectors = (
        _batched(functools.partial(tower_vector, model, tower), packed, sides)
        for tower, sides in model.backbone.tower_sides.items()
    )

    @tf.function(reduce_retracing=True)
    def pairs(user: tf.Tensor, ad: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return join_vectors(model, tf.gather(user_vectors, user), tf.gather(ad_vectors, ad))

    return pairs


def _batched(
    tower: Callable[..., tf.Tensor], packed: Mapping[str, tf.Tensor], sides: Sequence[str]
) -> tf.Tensor:
    inputs = {n: v for n, v in packed.items() if n.split("_")[-1] in sides}
    rows = len(next(iter(inputs.values())))
    apply = tf.function(tower, reduce_retracing=True)
    starts = range(0, rows, PAIRS)
    vectors = [apply({n: v[s : s + PAIRS] for n, v in inputs.items()}) for s in starts]
    return tf.concat(vectors, axis=0)
