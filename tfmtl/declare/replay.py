"""The settings of how a ranking is compared with the final stage's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.declare.checks import at_least, check_settings, filled
from tfmtl.declare.evaluation import check_bounds
from tfmtl.plain import freeze


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """How a model's ranking is compared with the final stage's, on a replay log.

    The log has every retrieved ad of held-out requests, scored by the final stage (Wang et al.,
    AdKDD 2023, §3.3).

    Args:
        k: Ads that pass to the final stage, the `K` of the golden set.
        ks: Further `K` at which recall is reported.
        request_id: Column with the request.
        ad_id: Column with the ad.
        final_value: Column with the final stage's total value.
        final_cqs: Column with its consolidated quality score, where the log has it.
        final_pctr: Column with its click-through rate, where the log has it: the model's
            normalised entropy against it is then reported, on all that was retrieved.
        slices: Columns to slice by, one value per request, besides the scene.
        bounds: Lower or upper bounds that must hold, such as `{"soft_recall@20": 0.6}`; a number
            is a lower bound for recalls and an upper bound for `tvd` and errors.
        max_fall: How much soft recall at `k` may fall against the last blessed model.

    Raises:
        SpecError: A setting has the wrong type or lies out of its range.
    """

    k: int = 20
    ks: Sequence[int] = (5, 10, 50)
    request_id: str = "request_id"
    ad_id: str = "ad_id"
    final_value: str = "final_tv"
    final_cqs: str | None = "final_cqs"
    final_pctr: str | None = None
    slices: Sequence[str] = ()
    bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_fall: float = 0.01

    def __post_init__(self) -> None:
        freeze(self)
        columns = ("request_id", "ad_id", "final_value", "final_cqs", "final_pctr")
        check_settings(
            "replay.",
            self,
            {
                "k": at_least(1),
                "ks": at_least(1),
                "max_fall": at_least(0),
                **dict.fromkeys(columns, filled()),
            },
        )
        check_bounds("replay.bounds", self.bounds)
