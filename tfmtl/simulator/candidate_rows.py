"""Candidates as rows of the early stage's logs.

The early features are of the same kinds as those of Wang et al. (AdKDD 2023). User features are
ids, categories and coarse dense features. Ad features are id, category, advertiser and objective.
The dense features of users are rounded to whole standard deviations. Only the final stage has the
dense features of ads: what the early stage needs of them it must learn through the ad's id.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.simulator.columns import (
    EXACT,
    INTEGER,
    TEXT,
    category_names,
    named,
    record_batch,
    user_columns,
    user_fields,
)
from tfmtl.simulator.constants import Constants, Funnel
from tfmtl.simulator.funnel import (
    OUTCOMES,
    Valued,
    auction_value,
    best,
    final_stage,
    judge,
    run_funnel,
    value_logits,
)
from tfmtl.simulator.noise import SAMPLING, keyed_uniform
from tfmtl.simulator.retrieval import Candidates
from tfmtl.simulator.truth import cqs, probabilities
from tfmtl.simulator.world import Floats, Ints, World

ROW_TYPES = ("R1", "R2", "R3", "R4")
FINAL = ("final_pctr", "final_rate", "final_cqs", "final_tv")


def consolidated_schema(constants: Constants) -> pa.Schema:
    """The columns of a consolidated log."""
    flags = ("is_impression", "in_final", "ctr_traffic")
    return pa.schema(
        [
            *_early_fields(constants),
            ("position", INTEGER),
            *((name, INTEGER) for name in (*flags, *OUTCOMES[:-1], "survey_rating")),
            *((name, EXACT) for name in FINAL),
            ("row_type", TEXT),
            ("true_ctr", EXACT),
            ("true_cqs", EXACT),
        ]
    )


def replay_schema(constants: Constants) -> pa.Schema:
    """The columns of a replay."""
    return pa.schema(
        [
            *_early_fields(constants),
            *((name, EXACT) for name in FINAL),
            ("rank_final", INTEGER),
            ("is_gold", INTEGER),
        ]
    )


def early_columns(world: World, candidates: Candidates, row: Ints, column: Ints) -> dict[str, Any]:
    """The columns of the logs that an early stage may read, for some candidates.

    Args:
        world: Users and ads.
        candidates: From `retrieve`.
        row: `[rows]`, the requests' indices.
        column: `[rows]`, the candidates' indices within their requests.

    Returns:
        Arrow or NumPy arrays.
    """
    c = world.constants
    ad = candidates.ad[row, column]
    return {
        "request_id": candidates.request[row],
        "day": candidates.day[row],
        "scene": named([scene.name for scene in c.scenes], candidates.scene[row]),
        **user_columns(world, candidates.user[row], candidates.scene[row], coarse=True),
        "ad_id": ad,
        "category": named(category_names(c), world.category[ad]),
        "advertiser_id": world.advertiser[ad],
        "objective": named(list(c.objectives), candidates.objective[row, column]),
        "bid": candidates.bid[row, column],
        "early_cvr": candidates.early_cvr[row, column],
    }


def _early_fields(constants: Constants) -> list[tuple[str, pa.DataType]]:
    # Full precision, so that a total value computed from the columns equals the auction's.
    return [
        ("request_id", INTEGER),
        ("day", INTEGER),
        ("scene", TEXT),
        *user_fields(constants),
        ("ad_id", INTEGER),
        ("category", TEXT),
        ("advertiser_id", INTEGER),
        ("objective", TEXT),
        ("bid", EXACT),
        ("early_cvr", EXACT),
    ]


def logged_rows(
    world: World,
    funnel: Funnel,
    candidates: Candidates,
    early_value: Floats,
    shares: Mapping[str, float],
    seed: int,
) -> pa.RecordBatch:
    """The rows of `consolidated_batches` for some requests.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        candidates: From `retrieve`.
        early_value: `[R, N]`, the early total values of the stage that served.
        shares: The shares of the rows of type "R3" and "R4" that are kept.
        seed: Seed of the final stage's error, the outcomes and the sampling.
    """
    c = world.constants
    done = run_funnel(world, funnel, candidates, early_value, seed=seed)
    in_final = np.zeros(candidates.ad.shape, bool)
    np.put_along_axis(in_final, done.passed, True, axis=1)
    slot = np.full(candidates.ad.shape, -1)
    slots = np.where(done.shown, np.arange(done.shown.shape[1]), -1)
    np.put_along_axis(slot, done.passed[:, : funnel.slots], slots, axis=1)
    luck = keyed_uniform(seed, SAMPLING, candidates.request[:, None], candidates.ad)
    kept = (slot >= 0) | (luck < np.where(in_final, shares["R3"], shares["R4"]))
    row, column = np.nonzero(kept)
    slot, in_final, ad = slot[row, column], in_final[row, column], candidates.ad[row, column]
    shown = slot >= 0
    logits = value_logits(
        world,
        user=candidates.user[row],
        ad=ad,
        day=candidates.day[row],
        scene=candidates.scene[row],
    )
    final = judge(world, logits, request=candidates.request[row], ad=ad, seed=seed)
    logits["click"] = logits["click"] + c.position * np.log2(np.where(shown, slot + 1, 1))
    true = probabilities(logits)
    objectives = np.asarray(list(c.objectives))
    ctr_traffic = auction_value(c).needs(objectives)[0][world.objective[ad]]
    kind = np.where(shown, np.where(ctr_traffic, 0, 1), np.where(in_final, 2, 3))
    outcomes = {name: done.outcomes[name][row, slot] for name in OUTCOMES}
    asked = shown & outcomes["survey_shown"]
    rating = outcomes.pop("survey")
    columns = {
        **early_columns(world, candidates, row, column),
        "position": _known(slot + 1, shown),
        "is_impression": shown,
        "in_final": in_final,
        "ctr_traffic": ctr_traffic,
        **{name: _known(happened, shown) for name, happened in outcomes.items()},
        "survey_rating": _known(rating, asked),
        **_final_columns(final),
        "row_type": named(ROW_TYPES, kind),
        "true_ctr": true["click"],
        "true_cqs": cqs(c, true),
    }
    return record_batch(columns, consolidated_schema(c))


def replayed_rows(
    world: World, funnel: Funnel, candidates: Candidates, seed: int
) -> pa.RecordBatch:
    """The rows of `replay_batches` for some requests."""
    final = final_stage(world, candidates, seed=seed)
    order = best(final.total_value, candidates.ad)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None, :], axis=1)
    row, column = (index.ravel() for index in np.indices(order.shape))
    columns = {
        **early_columns(world, candidates, row, column),
        **_final_columns(final),
        "rank_final": rank.ravel(),
        "is_gold": rank.ravel() < funnel.passed,
    }
    return record_batch(columns, replay_schema(world.constants))


def _final_columns(final: Valued) -> dict[str, Floats]:
    values = (final.ctr, final.rate, final.cqs, final.total_value)
    return {name: value.ravel() for name, value in zip(FINAL, values, strict=True)}


def _known(values: Ints, known: NDArray[np.bool_]) -> pa.Array:
    """The values as integers, null where they are not known."""
    return pa.array(values.astype(np.int64), mask=~known)
