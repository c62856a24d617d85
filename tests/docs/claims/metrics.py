"""What docs/metrics.md says of its blocks."""

import sys

import tfmtl
from tfmtl.evaluation.bounds import bounds
from tfmtl.metrics.monitor import lower_is_better


def claims(names, whole):
    experiment = names["EXPERIMENT"]
    sides = {
        b.metric: (b.lower, b.upper) for b in bounds(names["PROBLEM"], experiment.evaluation)[0]
    }
    assert sides["ctr/brier@imp"] == (None, 0.08), sides
    assert tfmtl.ExperimentConfig.from_json(experiment.to_json()) == experiment
    assert not lower_is_better("profit")
    # The block is the file `my_shop.py` too, whose function is known by its place.
    sys.path.insert(0, "")
    import my_shop

    assert my_shop.CTR.metrics == ("my_shop:error_rate",)
    assert my_shop.error_rate([1, 0, 0], [0.9, 0.8, 0.1]) == 1 / 3
    assert my_shop.error_rate([1, 0, 0], [0.9, 0.8, 0.1], [0, 1, 1]) == 1 / 2
