"""Recall and divergence of an early stage as metrics of TensorFlow Model Analysis (TFMA).

    MetricsSpec(
        query_key="request_id",
        metrics=[tfma_recall.metric_config(SoftRecall(k=20)), …],
    )

The label is the final stage's total value, the prediction the early one's, a row one ad of a
replayed request; the rules are those of `tfmtl.replay.recall`. TFMA slices rows: a request counts
in each slice that one of its rows is in, and always with all its rows, so slice by properties of
the request.

Where a MetricsSpec asks for example weights, a request's weight is that of its rows, which must
agree.
"""

import abc
import json
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import util

from tfmtl.replay.log import positions

Sums = tuple[float, float]


def metric_config(metric: metric_types.Metric) -> config_pb2.MetricConfig:
    """A metric of this file as TFMA's configuration names it: class, module and arguments."""
    return config_pb2.MetricConfig(
        class_name=type(metric).__name__,
        module=type(metric).__module__,
        config=json.dumps(metric.get_config()),
    )


class _OfRequests(metric_types.Metric, abc.ABC):
    """A ratio of sums over requests.

    Args:
        k: Ads a request that pass to the final stage.
        ad_key: Feature with the ad, by which equal values rank, numbers as numbers and text as
            text.
        name: Of the metric; `soft_recall@20` by default.

    Raises:
        ValueError: K is not positive.
    """

    short_name: str

    def __init__(self, k: int, ad_key: str = "ad_id", name: str | None = None):
        if int(k) != k or k < 1:
            raise ValueError(f"k={k!r}; a number of ads, an integer of at least 1, is right.")
        name = name or f"{self.short_name}@{k}"
        super().__init__(self._computations, k=int(k), ad_key=ad_key, name=name)

    @staticmethod
    @abc.abstractmethod
    def of_request(early: np.ndarray, final: np.ndarray, ad: np.ndarray, k: int) -> Sums:
        """What a request of `[n]` ads adds to numerator and denominator."""

    def _computations(
        self,
        k: int,
        ad_key: str,
        name: str,
        eval_config: config_pb2.EvalConfig | None = None,
        model_names: list[str] | None = None,
        output_names: list[str] | None = None,
        example_weighted: bool = False,
        query_key: str = "",
    ) -> metric_types.MetricComputations:
        if not query_key:
            raise ValueError(
                f"{name} is a metric of requests; MetricsSpec(query_key='request_id') names them."
            )
        found = []
        for model_name in model_names or [""]:
            for output_name in output_names or [""]:
                key = metric_types.MetricKey(
                    name=name,
                    model_name=model_name,
                    output_name=output_name,
                    example_weighted=example_weighted,
                )
                read = metric_types.CombinedFeaturePreprocessor(feature_keys=[query_key, ad_key])
                combiner = _Combiner(type(self), key, eval_config, k, ad_key)
                found.append(
                    metric_types.MetricComputation(
                        keys=[key], preprocessors=[read], combiner=combiner
                    )
                )
        return found


class HardRecall(_OfRequests):
    """Share of the `k` ads of greatest final value that the early stage picked, over requests."""

    short_name = "hard_recall"

    @staticmethod
    def of_request(early, final, ad, k):  # noqa: D102
        picked, golden = _chosen(early, ad, k), _chosen(final, ad, k)
        return float((picked & golden).sum() / golden.sum()), 1.0


class SoftRecall(_OfRequests):
    """Final value of the `k` picked ads over that of the best `k`, over requests.

    Values below 0 count as 0; requests whose best ads are worth nothing do not count.
    """

    short_name = "soft_recall"

    @staticmethod
    def of_request(early, final, ad, k):  # noqa: D102
        worth = np.maximum(final, 0.0)
        golden = worth[_chosen(final, ad, k)].sum()
        if golden <= 0:
            return 0.0, 0.0
        return float(worth[_chosen(early, ad, k)].sum() / golden), 1.0


class TotalValueDivergence(_OfRequests):
    """`Σ|final − early| / Σ|final|` over the `k` ads a request that the early stage picked."""

    short_name = "tvd"

    @staticmethod
    def of_request(early, final, ad, k):  # noqa: D102
        picked = _chosen(early, ad, k)
        apart = np.abs(final[picked] - early[picked]).sum()
        return float(apart), float(np.abs(final[picked]).sum())


for _metric in (HardRecall, SoftRecall, TotalValueDivergence):
    metric_types.register_metric(_metric)


def _chosen(value: np.ndarray, ad: np.ndarray, k: int) -> np.ndarray:
    return positions(np.zeros(len(value), np.int64), value, ad) < k


class _Combiner(beam.CombineFn):
    """Sums numerators and denominators; a request comes as one element with all its rows."""

    def __init__(
        self,
        metric: type[_OfRequests],
        key: metric_types.MetricKey,
        eval_config: config_pb2.EvalConfig | None,
        k: int,
        ad_key: str,
    ):
        self._metric, self._key, self._eval_config = metric, key, eval_config
        self._k, self._ad_key = k, ad_key

    def create_accumulator(self) -> Sums:
        return 0.0, 0.0

    def add_input(self, accumulator: Sums, element: metric_types.StandardMetricInputs) -> Sums:
        label, prediction, weight = next(
            metric_util.to_label_prediction_example_weight(
                element,
                eval_config=self._eval_config,
                model_name=self._key.model_name,
                output_name=self._key.output_name,
                example_weighted=bool(self._key.example_weighted),
                flatten=False,
                require_single_example_weight=True,
            )
        )
        ad = util.get_by_keys(element.combined_features, [self._ad_key]).ravel()
        early, final = (np.asarray(x, np.float64).ravel() for x in (prediction, label))
        ad = ad.astype(str) if ad.dtype.kind in "OSU" else ad
        if not len(early) == len(final) == len(ad):
            raise ValueError(
                f"{self._key.name}: a request has {len(final)} labels, {len(early)} predictions "
                f"and {len(ad)} values of {self._ad_key!r}; one each an ad is right."
            )
        above, below = self._metric.of_request(early, final, ad, self._k)
        # TFMA gives an array of one number.
        each = np.asarray(weight, np.float64).item()
        return accumulator[0] + each * above, accumulator[1] + each * below

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        both = list(accumulators)
        return sum(above for above, _ in both), sum(below for _, below in both)

    def extract_output(self, accumulator: Sums) -> dict[metric_types.MetricKey, float]:
        above, below = accumulator
        return {self._key: above / below if below else float("nan")}
