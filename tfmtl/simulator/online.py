"""Online A/B tests: several early stages serve the same stream of requests.

All arms get the same requests, the same retrieved ads, the same errors of the final stage and the
same random draws of the users (common random numbers). Only the arms themselves can cause a
difference. Metrics are expectations under the true probabilities of the shown ads, which vary far
less than drawn clicks. Metrics of the drawn events are reported too, as `sampled/…`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from tfmtl.metrics.bootstrap import Interval, PairedInterval, Ratio, intervals, paired_intervals
from tfmtl.simulator.constants import Funnel
from tfmtl.simulator.funnel import EarlyStage, Funnelled, run_funnel
from tfmtl.simulator.retrieval import retrieve
from tfmtl.simulator.world import Floats, World

STEP = 1_024

METRICS: Mapping[str, tuple[str, str]] = {
    "ctr@imp": ("clicks", "impressions"),
    "cvr@click": ("conversions", "clicks"),
    "xout_rate@imp": ("xouts", "impressions"),
    "hide_rate@imp": ("hides", "impressions"),
    "survey_score@imp": ("good_surveys", "impressions"),
    "total_value@request": ("total_value", "requests"),
    "spend@request": ("spend", "requests"),
    "impressions@request": ("impressions", "requests"),
    "tvd@final": ("divergence", "final_value"),
    "macs@request": ("macs", "requests"),
    "sampled/ctr@imp": ("sampled_clicks", "impressions"),
    "sampled/cvr@click": ("sampled_conversions", "sampled_clicks"),
    "sampled/xout_rate@imp": ("sampled_xouts", "impressions"),
    "sampled/survey_score@asked": ("sampled_good_surveys", "sampled_surveys"),
}
"""Numerator and denominator of each metric. `macs` are the early stage's multiply-adds, if costs
are given; `spend` is what the advertisers pay."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OnlineTest:
    """The result of an A/B test with `R` requests.

    Attributes:
        sums: By arm and quantity, the sums over each request's shown ads, `[R]`.
        metrics: Numerator and denominator of each metric.
        samples: Number of bootstrap resamples for the intervals.
        seed: Seed of the resamples.
    """

    sums: Mapping[str, Mapping[str, Floats]]
    metrics: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=lambda: METRICS)
    samples: int = 1000
    seed: int = 0

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in order."""
        return tuple(self.sums)

    def values(self, arm: str) -> dict[str, Interval]:
        """An arm's metrics, by name, with 95 % bootstrap intervals over requests."""
        values = intervals(self._ratios(arm), samples=self.samples, seed=self.seed)
        return dict(zip(self._metrics, values, strict=True))

    def compare(self, control: str, arm: str) -> dict[str, PairedInterval]:
        """The difference of an arm from another on the same requests, with paired intervals."""
        pair = (self._ratios(control), self._ratios(arm))
        differences = paired_intervals(*pair, samples=self.samples, seed=self.seed)
        return dict(zip(self._metrics, differences, strict=True))

    @property
    def _metrics(self) -> dict[str, tuple[str, str]]:
        # Without given costs there is no metric of cost.
        given = next(iter(self.sums.values()))
        return {name: parts for name, parts in self.metrics.items() if set(parts) <= set(given)}

    def _ratios(self, arm: str) -> Ratio:
        sums = self.sums[arm]
        numerators, denominators = zip(*self._metrics.values(), strict=True)
        return Ratio(
            np.stack([sums[name] for name in numerators], axis=1),
            np.stack([sums[name] for name in denominators], axis=1),
        )


def run_online(
    world: World,
    funnel: Funnel,
    arms: Mapping[str, EarlyStage],
    *,
    requests: int,
    first_request: int = 0,
    day: int = 0,
    seed: int = 0,
    samples: int = 1000,
    costs: Mapping[str, float] | None = None,
    progress: bool = False,
) -> OnlineTest:
    """Serves the same stream of requests with every arm.

    Args:
        world: Users and ads.
        funnel: Sizes of the stages.
        arms: Early stages by name.
        requests: Number of requests.
        first_request: Id of the first request; greater than all ids in the arms' training logs.
        day: The day of the requests.
        seed: Seed of requests, ads, the final stage's error and outcomes.
        samples: Number of bootstrap resamples for the intervals.
        costs: Multiply-adds per request by arm, for all arms or not at all; see
            `tfmtl.serving.cost.request_macs`.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ValueError: There are no arms, or an arm's early values do not fit the candidates.
    """
    if costs is not None and set(costs) != set(arms):
        raise ValueError(f"costs are of {sorted(costs)}, but arms are {sorted(arms)}.")
    if not arms:
        raise ValueError("an A/B test needs at least one arm; got none.")
    parts: dict[str, list[dict[str, Floats]]] = {name: [] for name in arms}
    with tqdm(total=requests * len(arms), unit=" requests", disable=not progress) as bar:
        for start in range(0, requests, STEP):
            candidates = retrieve(
                world,
                funnel,
                requests=min(STEP, requests - start),
                seed=seed,
                first_request=first_request + start,
                day=day,
            )
            for name, stage in arms.items():
                early = stage(candidates)
                done = run_funnel(world, funnel, candidates, early, seed=seed)
                parts[name].append(request_sums(done, early))
                bar.update(len(candidates))
    joined = {name: _joined(blocks) for name, blocks in parts.items()}
    for name, cost in (costs or {}).items():
        joined[name]["macs"] = np.full(requests, float(cost))
    return OnlineTest(sums=joined, samples=samples, seed=seed)


def request_sums(done: Funnelled, early_value: Floats) -> dict[str, Floats]:
    """The quantities of `METRICS`, summed over each request's shown ads, `[R]`.

    The divergence is summed over all ads that reached the final stage, shown or not.

    Args:
        done: The result of the requests.
        early_value: `[R, N]`, the values by which the early stage chose.
    """
    true, drawn = done.true, done.outcomes
    early = np.take_along_axis(early_value, done.passed, axis=1)
    final = done.final.total_value
    cells = {
        "clicks": true["click"],
        "conversions": true["click"] * true["conversion"],
        "xouts": true["xout"],
        "hides": true["hide"],
        "good_surveys": true["survey"],
        "total_value": done.worth.total_value,
        "spend": done.price * done.worth.action,
        "impressions": done.shown,
        "divergence": np.abs(final - early),
        "final_value": np.abs(final),
        "sampled_clicks": drawn["click"],
        "sampled_conversions": drawn["conversion"],
        "sampled_xouts": drawn["xout"],
        "sampled_surveys": drawn["survey_shown"],
        "sampled_good_surveys": drawn["survey"],
    }
    sums = {name: values.sum(axis=1, dtype=np.float64) for name, values in cells.items()}
    return {**sums, "requests": np.ones(len(final))}


def _joined(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
