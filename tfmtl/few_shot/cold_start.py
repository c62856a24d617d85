"""Models on groups they never saw: adapted to k rows of each, judged on the group's other rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from tfmtl.declare.layout import LABELS, PSEUDO, WEIGHTS
from tfmtl.declare.meta import Meta
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.features.rows import ArrayRows
from tfmtl.few_shot.adapt import FewShot
from tfmtl.few_shot.draws import Draw, draws_of
from tfmtl.few_shot.report import ColdStart, Shots
from tfmtl.few_shot.resamples import counts_of, interval_of, resampled_metrics
from tfmtl.metrics.metric import metrics_of
from tfmtl.model.multitask import MultiTaskModel

MODEL = "model"
"""Name of a model that is given without one."""


def cold_start(
    models: MultiTaskModel | Mapping[str, MultiTaskModel],
    rows: ArrayRows,
    groups: ArrayLike,
    *,
    meta: Meta | Mapping[str, Meta],
    ks: Sequence[int] = (0, 1, 2, 5, 10, 20, 50),
    draws: int = 3,
    min_query: int = 10,
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
    verbose: int = 1,
) -> ColdStart:
    """Measures what models gain on held-out groups from adapting to a few of their rows.

        report = tfmtl.cold_start(
            {"plain": plain, "meta": learnt}, test, table["advertiser_id"],
            meta=Meta(inner_rate=0.05, inner_steps=3),
        )
        print(report)
        tfmtl.draw_cold_start(report)

    Of each group some rows adapt a model and all others judge it. The latter are the same for
    every `k` and every model, and the rows of a smaller `k` are among those of a larger one, so
    that all differences are paired. Adaptation starts from the model's own weights, group by
    group, and goes down the training loss with dropout off and batch normalisation as in serving.
    The weights are as before when this returns, bit for bit.

    Groups that training saw say nothing about a cold start: hold them out, for instance by
    `by_hash("advertiser_id")`, and choose rates on other groups than those of the test.

    Args:
        models: A trained model, or several by name that were packed for alike; the first is the
            one that others are compared with.
        rows: Packed test rows.
        groups: `[rows]`, the raw key of each row's group. Packed ids would not do: what the
            vocabulary does not know has one id.
        meta: How models adapt, `inner_rate`, `inner_steps` and `inner_params` alone; or by
            model's name, since a rate that suits one need not suit another.
        ks: Rows of each group to adapt to. 0, which all are compared with, is always among them.
        draws: Random splits of each group.
        min_query: Rows of a group that must be left to judge. A group with fewer than that and
            the largest `k` together is left out, for all `k`; the report names it.
        seed: Of splits and resamples.
        samples: Resamples of the groups, for the intervals.
        level: Of the intervals.
        verbose: 1 shows a progress bar, 0 nothing.

    Raises:
        SpecError: What is given is no model, models are of different problems, or a setting is
            out of range.
        DataError: Rows are not in memory or lack labels, `groups` is not one key per row, or no
            group has rows enough.
        FloatingPointError: An adapted model's predictions are not finite.
    """
    named = _named(models)
    settings = _settings(named, meta)
    chosen = _checked_ks(ks, draws=draws, min_query=min_query, samples=samples)
    _check_rows(rows, groups)
    problem = next(iter(named.values())).problem
    drawn, left_out = draws_of(groups, most=chosen[-1], min_query=min_query, draws=draws, seed=seed)
    every = [draw for of_group in drawn for draw in of_group]
    query = _query_rows(rows, every, draws)
    counts = counts_of(len(drawn), samples=samples, seed=seed)
    values: dict[tuple[str, str, int], NDArray[np.float64]] = {}
    with tqdm(
        total=len(named) * len(every) * len(chosen), unit=" adaptations", disable=not verbose
    ) as bar:
        for name, model in named.items():
            bar.set_description(name)
            predictions = _predictions(FewShot(model, settings[name], rows), every, chosen, bar)
            for k, by_task in predictions.items():
                for metric, of_resamples in _measured(problem, by_task, query, counts).items():
                    values[name, metric, k] = of_resamples
    return ColdStart(
        models=tuple(named),
        ks=chosen,
        shots=_shots(values, next(iter(named)), level),
        groups=len(drawn),
        rows=len(query.groups),
        left_out=left_out,
        needed=chosen[-1] + min_query,
        draws=draws,
        settings={
            name: {"rate": m.inner_rate, "steps": m.inner_steps, "params": m.inner_params}
            for name, m in settings.items()
        },
        level=level,
    )


@dataclasses.dataclass(frozen=True)
class _Query:
    # Labels and weights `[rows, tasks]` of the query rows of all draws, and per row its group and
    # which of the group's draws it belongs to.
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    groups: NDArray[np.int64]
    parts: NDArray[np.int64]


def _query_rows(rows: ArrayRows, every: Sequence[Draw], draws: int) -> _Query:
    sizes = [len(draw.query) for draw in every]
    query = np.concatenate([draw.query for draw in every])
    labels, weights = (rows.tensors[name].numpy()[query] for name in (LABELS, WEIGHTS))
    if PSEUDO in rows.tensors:
        weights = np.where(rows.tensors[PSEUDO].numpy()[query] > 0, 0.0, weights)
    index = np.arange(len(every))
    return _Query(
        labels, weights, np.repeat(index // draws, sizes), np.repeat(index % draws, sizes)
    )


def _measured(
    problem: ProblemSpec,
    predictions: Mapping[str, NDArray[np.float32]],
    query: _Query,
    counts: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    # Per metric's full name, its value on all query rows and in each resample.
    values: dict[str, NDArray[np.float64]] = {}
    for task in problem.served:
        index = problem.task_names.index(task.name)
        observed = query.weights[:, index] > 0
        measured = resampled_metrics(
            task.kind,
            query.labels[observed, index],
            predictions[task.name][observed],
            query.groups[observed],
            counts,
            query.parts[observed],
            metrics=[m for m in metrics_of(task) if not m.standard],
        )
        for metric, of_resamples in measured.items():
            values[problem.metric_name(task, metric)] = of_resamples
    return values


def _predictions(
    few_shot: FewShot, every: Sequence[Draw], ks: Sequence[int], bar: Any
) -> dict[int, dict[str, NDArray[np.float32]]]:
    parts: dict[int, list[dict[str, NDArray[np.float32]]]] = {k: [] for k in ks}
    for draw in every:
        for k in ks:
            predictions = few_shot(draw.support[:k], draw.query)
            for task, values in predictions.items():
                if not np.isfinite(values).all():
                    raise FloatingPointError(
                        f"task {task!r} has predictions that are no finite numbers after adapting "
                        f"to {k} rows of group {draw.group!r} at inner_rate="
                        f"{few_shot.inner.rate:g}; a lower rate or fewer inner_steps would do."
                    )
            parts[k].append(predictions)
            bar.update()
    return {
        k: {task: np.concatenate([p[task] for p in of_draws]) for task in of_draws[0]}
        for k, of_draws in parts.items()
    }


def _shots(
    values: Mapping[tuple[str, str, int], NDArray[np.float64]], first: str, level: float
) -> tuple[Shots, ...]:
    shots = []
    curves = list(dict.fromkeys(key[:2] for key in values))
    for name, metric, k in sorted(values, key=lambda key: curves.index(key[:2])):
        of_model = values[name, metric, k]
        against = None if name == first else of_model - values[first, metric, k]
        shots.append(
            Shots(
                model=name,
                k=k,
                metric=metric,
                value=interval_of(of_model, level),
                change=interval_of(of_model - values[name, metric, 0], level),
                difference=None if against is None else interval_of(against, level),
            )
        )
    return tuple(shots)


def _named(models: Any) -> dict[str, MultiTaskModel]:
    named = dict(models) if isinstance(models, Mapping) else {MODEL: models}
    if not named:
        raise SpecError("models={} holds no model; give one, or several by name.")
    for name, model in named.items():
        if not isinstance(model, MultiTaskModel):
            raise SpecError(
                f"model {name!r} is a {type(model).__name__}; only a MultiTaskModel, such as "
                "train(…).model, can adapt its weights."
            )
        if not model.built:
            raise SpecError(f"model {name!r} has no weights yet; train it, or call it once.")
    first, *others = named.items()
    for name, model in others:
        if model.problem != first[1].problem:
            raise SpecError(
                f"models {first[0]!r} and {name!r} were declared for different problems, and the "
                "rows are packed for one; compare models of one ProblemSpec."
            )
    return named


def _settings(named: Mapping[str, Any], meta: Meta | Mapping[str, Meta]) -> dict[str, Meta]:
    given = dict(meta) if isinstance(meta, Mapping) else dict.fromkeys(named, meta)
    for name in given:
        if name not in named:
            raise SpecError(
                f"meta= names {name!r}; the models are {list(named)}.{did_you_mean(name, named)}"
            )
    for name in named:
        if not isinstance(given.get(name), Meta):
            raise SpecError(
                f"meta= has {given.get(name)!r} for model {name!r}; a Meta, such as "
                "Meta(inner_rate=0.05), would be right."
            )
    return {name: given[name] for name in named}


def _checked_ks(ks: Sequence[int], **least_one: int) -> tuple[int, ...]:
    if any(isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0 for k in ks):
        raise SpecError(f"ks={ks!r} must be whole numbers from 0, such as (0, 5, 20).")
    for name, value in least_one.items():
        if value < 1:
            raise SpecError(f"{name}={value} must be at least 1.")
    return tuple(sorted({0, *map(int, ks)}))


def _check_rows(rows: ArrayRows, groups: ArrayLike) -> None:
    if not isinstance(rows, ArrayRows):
        raise DataError(
            f"rows are {type(rows).__name__}, and each group's have to be gathered from memory: "
            "give ArrayRows, such as FileRows(…).load()."
        )
    if LABELS not in rows.tensors:
        raise DataError("there are no labels among the packed rows; nothing can be measured.")
    shape = np.asarray(groups).shape
    if shape != (rows.count(),):
        raise DataError(
            f"groups must be one key per row, shape {(rows.count(),)}; got shape {shape}."
        )
