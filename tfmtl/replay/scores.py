"""Scores from anywhere, brought into the order of a replay log's rows."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfmtl.errors import DataError
from tfmtl.replay.columns import Table, as_numbers, column, item, plain_array, sorted_codes
from tfmtl.replay.log import Floats, ReplayLog


class Scores(NamedTuple):
    """An early stage's scores in the order of a log's rows.

    Attributes:
        early_value: `[n]`, its total values.
        early_cqs: `[n]`, its consolidated quality scores, or `None`.
        unused: Scores of pairs that the log does not hold.
    """

    early_value: Floats
    early_cqs: Floats | None
    unused: int


def join_scores(
    log: ReplayLog,
    table: Table,
    *,
    request_id: str = "request_id",
    ad_id: str = "ad_id",
    early_value: str = "early_tv",
    early_cqs: str | None = None,
) -> Scores:
    """Joins scores to a log by request and ad.

    Where one side holds an id as a number and the other as text, numbers are written as text.

    Args:
        log: The replay log.
        table: The scores, in any order.
        request_id: Their column with the request.
        ad_id: Their column with the ad.
        early_value: Their column with the early stage's total value.
        early_cqs: Their column with its quality score.

    Raises:
        DataError: A column is missing, a pair of the log has no score, or a pair has two.
    """
    values = as_numbers(column(table, early_value, "the table of scores"), early_value)
    keys, scored = [], []
    for name, mine in ((request_id, log.request), (ad_id, log.ad)):
        theirs = column(table, name, "the table of scores")
        codes, _ = sorted_codes(np.concatenate(_alike(plain_array(mine), theirs)), name)
        keys.append(codes[: len(log)])
        scored.append(codes[len(log) :])
    ads = int(max(keys[1].max(), scored[1].max(initial=0))) + 1
    wanted, held = keys[0] * ads + keys[1], scored[0] * ads + scored[1]
    index = pd.Index(held)
    if index.has_duplicates:
        _refuse_duplicate(table, index, request_id, ad_id)
    rows = index.get_indexer(wanted)
    if (rows < 0).any():
        first = int(np.flatnonzero(rows < 0)[0])
        raise DataError(
            f"the table of scores has none for {int((rows < 0).sum()):,} of {len(log):,} rows of "
            f"the replay log; the first is request {item(plain_array(log.request)[first])!r}, ad "
            f"{item(plain_array(log.ad)[first])!r}. Every ad that was retrieved needs a score."
        )
    quality = None
    if early_cqs is not None:
        quality = as_numbers(column(table, early_cqs, "the table of scores"), early_cqs)[rows]
    return Scores(values[rows], quality, len(held) - len(log))


def _alike(mine: NDArray, theirs: NDArray) -> tuple[NDArray, NDArray]:
    if (mine.dtype.kind == "O") == (theirs.dtype.kind == "O"):
        return mine, theirs
    return _as_text(mine), _as_text(theirs)


def _as_text(values: NDArray) -> NDArray:
    if values.dtype.kind == "f" and (values == np.floor(values)).all():
        values = values.astype(np.int64)
    return values if values.dtype.kind == "O" else values.astype(str).astype(object)


def _refuse_duplicate(table: Table, index: pd.Index, request_id: str, ad_id: str) -> None:
    again = index.duplicated()
    second = int(np.flatnonzero(again)[0])
    first = int(index.get_indexer_for(index[[second]])[0])
    request, ad = (
        item(column(table, name, "the table of scores")[second]) for name in (request_id, ad_id)
    )
    raise DataError(
        f"the table of scores holds request {request!r}, ad {ad!r} twice, in rows {first + 1:,} "
        f"and {second + 1:,} ({int(again.sum()):,} such rows); one score would be right."
    )
