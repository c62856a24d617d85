"""What the page on early-stage ranking says of what its lines made."""

from pathlib import Path

import pyarrow.parquet as pq

from tfmtl.simulator import replay_log


def claims(page, whole):
    requests = pq.read_table("ads/log", columns=["request_id"])["request_id"]
    drawn = replay_log(
        page["world"],
        page["Funnel"](),
        requests=len(page["replay"]["request_id"].unique()),
        first_request=len(requests.unique()),
        first_day=10,
    )
    assert drawn.equals(page["replay"]), "section 6 draws another world than that of ads/log"
    recall = page["validate"](page["trained"].model)["soft_recall@20"]
    assert 0.5 < recall < 1, recall
    value = page["test"].compare("rule", "model")["total_value@request"].relative
    assert value.low > 0, value
    assert Path("recall.png").read_bytes().startswith(b"\x89PNG")
    vectors = pq.read_table("vectors.parquet")
    assert vectors.num_rows == len(page["replay"]["ad_id"].unique())
    if whole:
        assert [*Path("output/ads_early_stage/serving/ads_early_stage").glob("*/saved_model.pb")]
