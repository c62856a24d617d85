"""Metrics whose numbers other rooms compute, declared so that their direction is known.

`monitor`, searches, bounds and reports read them here, as they read metrics of predictions.
"""

from tfmtl.metrics.metric import Best, Metric
from tfmtl.registry import register


def _declare(
    name: str, *, of: str, best: Best, heading: str, format: str = ".4f", shown: bool = True
) -> None:
    where = ("replay" if of == "replay" else "cold_start",) if shown else ()
    part: Metric[...] = Metric(
        name=name, best=best, kinds=(of,), heading=heading, format=format, shown=where
    )
    register("metric", name)(part)


# Of a model as a whole: `MultiTaskModel.evaluate`.
_declare("loss", of="model", best="low", heading="loss", shown=False)
_declare("mean_auc", of="model", best="high", heading="mean AUC", shown=False)

# Within the groups that a cold start adapts to: `tfmtl.few_shot`.
_declare("group_auc", of="groups", best="high", heading="group AUC")

# Of an early stage on a replay log, at each K (`soft_recall@20`): `tfmtl.replay`.
_declare("soft_recall", of="replay", best="high", heading="soft recall")
_declare("hard_recall", of="replay", best="high", heading="hard recall")
_declare("soft_recall_micro", of="replay", best="high", heading="soft recall, micro")
_declare("hard_recall_micro", of="replay", best="high", heading="hard recall, micro", shown=False)
_declare("tvd", of="replay", best="low", heading="TVD")
_declare("cqs_error", of="replay", best="low", heading="CQS error")
_declare("value_regret", of="replay", best="low", heading="value regret", format=".4g")
