"""The log that the README's second block reads, and what its lines made of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_log(path):
    """Writes 3,000 impressions of 100 users and 20 ads, where the ad explains the clicks."""
    rng = np.random.default_rng(3)
    user, ad = rng.integers(0, 100, 3000), rng.integers(0, 20, 3000)
    click = rng.random(3000) < 0.1 + 0.04 * (ad % 10)
    columns = {
        "request_id": np.char.add("r", (np.arange(3000) // 3).astype(str)),
        "scene": np.where(rng.random(3000) < 0.5, "feed", "search"),
        "user_id": np.char.add("u", user.astype(str)),
        "ad_id": np.char.add("a", ad.astype(str)),
        "price": rng.lognormal(2, 1, 3000),
        "click": click.astype(np.int64),
        "conversion": (click & (rng.random(3000) < 0.4)).astype(np.int64),
    }
    pq.write_table(pa.table(columns), path)


def claims(page, whole):
    measured = page["trained"].model.evaluate(page["prepared"].test.batches(8192))
    assert 0.5 < measured["ctr/auc@imp"] < 1 and "cvr/auc@click" in measured, measured
    assert Path("ranker/1/saved_model.pb").exists()
