"""Recall as TFMA computes it, against ours."""

import numpy as np
import pandas as pd
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.tfma_recall import (
    HardRecall,
    SoftRecall,
    TotalValueDivergence,
    _Combiner,
    metric_config,
)
from tfmtl.replay.log import ReplayLog
from tfmtl.replay.recall import recall_at, tvd


def requests(count, seed=0):
    """Requests of 1 to 40 ads, in mixed order, with ties, negative values and worthless sets."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 41, count)
    request = np.repeat(np.arange(count), sizes)
    rows = len(request)
    final = rng.normal(0.5, 1.0, rows)
    final[request < 5] = -1.0
    table = pd.DataFrame(
        {
            "request_id": np.char.add("r", request.astype(str)),
            "ad_id": np.concatenate([rng.permutation(900)[:n] for n in sizes]),
            "scene": np.where(request % 3 == 0, "search", "feed"),
            # Rounded, so that values tie inside requests and ads decide.
            "final": np.round(final, 1),
            "early": np.round(final + rng.normal(0, 0.7, rows), 1),
        }
    )
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def eval_config(metrics, **spec):
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key="final", prediction_key="early")],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            config_pb2.SlicingSpec(feature_keys=["scene"]),
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[metric_config(metric) for metric in metrics],
                **{"query_key": "request_id"} | spec,
            )
        ],
    )


def test_tfma_agrees_with_ours_overall_and_in_every_slice():
    table = requests(300)
    ks = (1, 5, 20)
    metrics = [kind(k=k) for kind in (HardRecall, SoftRecall, TotalValueDivergence) for k in ks]
    result = tfma.analyze_raw_data(table, eval_config(metrics))
    slices = dict(result.slicing_metrics)
    assert set(slices) == {(), (("scene", "feed"),), (("scene", "search"),)}
    for key, outputs in slices.items():
        part = table
        for column, value in key:
            part = part[part[column] == value]
        log = ReplayLog(request=part["request_id"], ad=part["ad_id"], final_value=part["final"])
        recall = recall_at(log, part["early"], ks)
        assert recall.skipped.any() and recall.whole.any()
        for i, k in enumerate(ks):
            expected = {
                "hard_recall": recall.values()["hard_recall"][i],
                "soft_recall": recall.values()["soft_recall"][i],
                "tvd": tvd(log, part["early"], k),
            }
            for name, value in expected.items():
                found = outputs[""][""][f"{name}@{k}"]["doubleValue"]
                assert found == pytest.approx(value, abs=1e-6), (key, name, k)


def test_without_a_query_key_the_metric_says_what_it_needs():
    with pytest.raises(ValueError, match="query_key='request_id'"):
        HardRecall(k=5).computations(model_names=[""], output_names=[""])


@pytest.mark.parametrize("k", [0, -1, 2.5])
def test_a_k_that_is_no_number_of_ads_is_refused(k):
    with pytest.raises(ValueError, match="a number of ads"):
        SoftRecall(k=k)


def test_a_metric_is_made_again_from_its_configuration():
    metric = TotalValueDivergence(k=7, ad_key="creative")
    again = TotalValueDivergence.from_config(metric.get_config())
    assert again.get_config() == metric.get_config() and again.name == "tvd@7"
    assert metric_config(metric).module == "components.tfma_recall"


def test_sums_of_parts_are_the_sum_of_all():
    (computation,) = SoftRecall(k=5).computations(
        model_names=[""], output_names=[""], query_key="request_id"
    )
    combiner = computation.combiner
    assert isinstance(combiner, _Combiner)
    merged = combiner.merge_accumulators([(1.0, 2.0), combiner.create_accumulator(), (0.5, 1.0)])
    assert combiner.extract_output(merged) == {computation.keys[0]: 0.5}
    (empty,) = combiner.extract_output(combiner.create_accumulator()).values()
    assert np.isnan(empty)
