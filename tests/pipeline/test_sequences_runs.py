"""A plain log through the whole pipeline: histories made while it is read, and served."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.shop import run, write_shop

DECLARED = """    features=(
        sequence(
            "clicked", events=(event("clicked_ads", of="ad_id"), event("clicked_scenes")),
            time="clicked_times", row_time="time", order="oldest_first", max_length=5,
        ),
"""
SOURCE = """
SOURCE = Source(histories=Histories(
    user="user_id", time="time", event_if="click", length=10,
    columns={"clicked_ads": "ad_id", "clicked_scenes": "scene", "clicked_times": "time"},
))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plain_log_becomes_a_served_model_with_histories(tmp_path):
    shop = write_shop(tmp_path)
    config = "from tfmtl import Histories, Source, event, sequence\n"
    config += (shop / "shop.py").read_text()
    config = config.replace("    features=(\n", DECLARED, 1) + SOURCE
    (shop / "shop.py").write_text(config)
    lines = (shop / "rows.csv").read_text().splitlines()
    timed = [f"{lines[0]},time"]
    timed += [f"{line},{1_700_000_000 + 60 * (i // 3)}" for i, line in enumerate(lines[1:])]
    (shop / "rows.csv").write_text("\n".join(timed) + "\n")
    done = run(shop)
    assert done.returncode == 0, done.stderr
    assert "sequence clicked:" in done.stdout
    request = json.loads((shop / "output/request.json").read_text())
    (instance,) = request["instances"]
    assert isinstance(instance["clicked_ads"], list) and isinstance(instance["time"], int)
    (model,) = (shop / "output").glob("artifacts/Trainer/**/Format-Serving/saved_model.pb")
    served = tf.saved_model.load(str(model.parent)).signatures["predict"]
    kinds = {n: s.dtype for n, s in served.structured_input_signature[1].items()}
    inputs = {n: tf.constant([value], kinds[n]) for n, value in instance.items()}
    assert np.isfinite(served(**inputs)["ctr"]).all()
