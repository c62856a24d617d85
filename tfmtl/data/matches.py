"""A sequence as a few numbers per row: its length, and how it matches the row's own values."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tfmtl.data.columns import declared, plain
from tfmtl.data.events import NO_TIME, align, fate_of
from tfmtl.declare.columns import Column
from tfmtl.declare.features import Categorical
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature


def match_numbers(
    problem: ProblemSpec, feature: SequenceFeature, rows: pa.Table
) -> dict[str, NDArray[Any]]:
    """What is known of each row's kept events, float64 `[rows]`, by name.

    - `clicked/length`: how many there are;
    - `clicked/clicked_ads_matches`, for a column that is `of` a feature: how many have the row's
      own value;
    - `clicked/clicked_ads_age`, where there are times: the age of the last of these, NaN without
      any.

    Trees read them, for which a list is no column; the checks judge them, because a history that
    holds the row's own click shows as a match.

    Args:
        problem: The declaration.
        feature: One of its sequences.
        rows: Raw columns.
    """
    flat: dict[str, Any] = {
        column.name: plain(column, declared(column, rows[column.name]))
        for column in feature.columns()
    }
    row_times = None if feature.row_time is None else flat.pop(feature.row_time)[0]
    lists = align(feature, flat)
    kept = fate_of(feature, lists, row_times).kept
    of_rows, count = lists.rows, len(lists.lengths)
    result = {f"{feature.name}/length": np.bincount(of_rows[kept], minlength=count).astype(float)}
    for event in feature.events:
        owner = next((f for f in problem.features if f.name == event.of), None)
        if not isinstance(owner, Categorical):
            continue
        own = Column(name=owner.column, dtype=owner.dtype)
        target, _ = plain(own, declared(own, rows[owner.column]))
        same = kept & np.asarray(lists.values[event.column] == target[of_rows])
        name = f"{feature.name}/{event.column}"
        result[f"{name}_matches"] = np.bincount(of_rows[same], minlength=count).astype(float)
        if feature.time is not None and row_times is not None:
            newest = np.full(count, NO_TIME)
            np.maximum.at(newest, of_rows[same], lists.values[feature.time][same])
            known = (newest != NO_TIME) & (row_times != NO_TIME)
            ages = np.full(count, np.nan)
            ages[known] = row_times[known] - newest[known]
            result[f"{name}_age"] = ages
    return result
