"""The replay log: requests whose retrieved ads were all ranked by the final stage.

A small share of traffic is replayed through a copy of the funnel with relaxed timeouts, so that
the final stage values every ad that was retrieved (Wang et al., AdKDD 2023, §3.3). The log knows
no early stage: it is written once, and any number of early stages are measured on it
(`tfmtl.replay.recall`, `tfmtl.replay.report`).

`python -m tfmtl.replay --help` measures scores that stand in a file.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tfmtl.errors import DataError, did_you_mean
from tfmtl.metrics.sliced import MISSING
from tfmtl.replay.columns import Table, as_numbers, column, item, plain_array, sorted_codes

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ReplayLog:
    """What the final stage said of every ad of every replayed request. `n` rows, `R` requests.

    A row is one ad of one request. Requests differ in their number of ads, and the rows of one
    may stand anywhere: inside, they are sorted by request and ad, so that no result depends on
    the order of rows.

    Args:
        request: `[n]`, the request of each row: numbers or text.
        ad: `[n]`, the ad of each row. Equal values rank by rising ad, numbers as numbers and
            text as text.
        final_value: `[n]`, the final stage's total value. May be negative.
        final_cqs: `[n]`, its consolidated quality score.
        final_pctr: `[n]`, its click-through rate.
        slices: `[n]` by column; a property of the request, such as its scene.
        names: What the fields are called where the log came from, for messages.

    Attributes:
        requests: `[R]`, the distinct requests, sorted.
        sizes: `[R]`, their numbers of ads.
        order: `[n]`, the rows sorted by request and ad.
        codes: `[n]`, which of `requests` the rows are of, in that order.
        final_place: `[n]`, their ranks by final value, in that order; 0 is the best.

    Raises:
        DataError: There are no rows, lengths differ, an id is missing, a final value is missing
            or infinite, a request holds an ad twice, or a slice column varies inside a request.

    Example:
        >>> log = ReplayLog(
        ...     request=["a", "a", "a", "b", "b"],
        ...     ad=[1, 2, 3, 1, 3],
        ...     final_value=[0.1, 0.4, 0.3, 0.2, -0.1],
        ... )
        >>> log
        ReplayLog(5 rows, 2 requests of 2 to 3 ads)
    """

    request: ArrayLike
    ad: ArrayLike
    final_value: ArrayLike
    final_cqs: ArrayLike | None = None
    final_pctr: ArrayLike | None = None
    slices: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requests: NDArray = dataclasses.field(init=False)
    sizes: Ints = dataclasses.field(init=False)
    order: Ints = dataclasses.field(init=False)
    codes: Ints = dataclasses.field(init=False)
    final_place: Ints = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for field in ("request", "ad"):
            set_(self, field, plain_array(getattr(self, field)))
        set_(self, "slices", {name: plain_array(v) for name, v in self.slices.items()})
        finals = ("final_value", "final_cqs", "final_pctr")
        for field in finals:
            if getattr(self, field) is not None:
                set_(self, field, as_numbers(getattr(self, field), self._name(field)))
        self._check_lengths(finals)
        request_codes, requests = sorted_codes(self.request, self._name("request"))
        ad_codes, _ = sorted_codes(self.ad, self._name("ad"))
        set_(self, "requests", requests)
        set_(self, "order", np.lexsort((ad_codes, request_codes)))
        set_(self, "codes", request_codes[self.order])
        set_(self, "sizes", np.bincount(self.codes, minlength=len(requests)))
        for field in finals:
            if getattr(self, field) is not None:
                self._check_finite(getattr(self, field), self._name(field))
        self._check_duplicates(ad_codes[self.order])
        for name in self.slices:
            self._check_constant(name)
        set_(self, "final_place", self.places_of(np.asarray(self.final_value)[self.order]))

    @classmethod
    def from_table(
        cls,
        table: Table,
        *,
        request_id: str = "request_id",
        ad_id: str = "ad_id",
        final_value: str = "final_tv",
        final_cqs: str | None = None,
        final_pctr: str | None = None,
        slices: Iterable[str] = (),
    ) -> "ReplayLog":
        """A log from the columns of a table, which may hold others too.

        Args:
            table: An Arrow table, a data frame, or columns by name.
            request_id: Column with the request.
            ad_id: Column with the ad.
            final_value: Column with the final stage's total value.
            final_cqs: Column with its consolidated quality score.
            final_pctr: Column with its click-through rate.
            slices: Columns of the request to slice by.

        Raises:
            DataError: A column is missing, or the rows are no replay log; see `ReplayLog`.
        """
        names = {"request": request_id, "ad": ad_id, "final_value": final_value}
        names |= {"final_cqs": final_cqs} if final_cqs is not None else {}
        names |= {"final_pctr": final_pctr} if final_pctr is not None else {}
        fields: dict[str, Any] = {
            field: column(table, name, "the replay log") for field, name in names.items()
        }
        by_name = {name: column(table, name, "the replay log") for name in slices}
        return cls(**fields, slices=by_name, names=names)

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        few, many = self.sizes.min(), self.sizes.max()
        ads = f"{few:,}" if few == many else f"{few:,} to {many:,}"
        return f"ReplayLog({len(self):,} rows, {len(self.requests):,} requests of {ads} ads)"

    def sorted(self, values: ArrayLike, name: str = "early_value") -> Floats:
        """Values of the log's rows, `[n]` in the rows' own order, sorted as `order` says.

        Raises:
            DataError: The length differs, or a value is missing.
        """
        numbers = as_numbers(values, name)
        if numbers.shape != self.order.shape:
            raise DataError(
                f"{name} must be one value a row of the log, {self.order.shape}; got "
                f"{numbers.shape}."
            )
        missing = np.isnan(numbers)
        if missing.any():
            raise DataError(f"{name} is missing in {self._rows(missing)}.")
        return numbers[self.order]

    def places_of(self, values: Floats) -> Ints:
        """0-based ranks inside the requests by falling value, of values that are `sorted`."""
        return positions(self.codes, values, np.arange(len(self)))

    def slice_values(self, name: str) -> NDArray:
        """`[R]`, each request's value of a slice column.

        Raises:
            DataError: There is no such slice column.
        """
        if name not in self.slices:
            raise DataError(
                f"the replay log has no slice column {name!r}; it has {sorted(self.slices)}."
                f"{did_you_mean(name, self.slices)}"
            )
        firsts = np.cumsum(self.sizes) - self.sizes
        values = np.asarray(self.slices[name])[self.order[firsts]].astype(object)
        values[pd.isna(values)] = MISSING
        return values

    def _name(self, field: str) -> str:
        return self.names.get(field, field)

    def _check_lengths(self, finals: Sequence[str]) -> None:
        parts = {self._name(field): getattr(self, field) for field in ("request", "ad", *finals)}
        shapes = {
            name: np.shape(values)
            for name, values in (parts | dict(self.slices)).items()
            if values is not None
        }
        if len(set(shapes.values())) > 1 or len(np.shape(self.request)) != 1:
            raise DataError(f"a replay log's columns have one value a row each; got {shapes}.")
        if not len(np.asarray(self.request)):
            raise DataError("the replay log holds no rows.")

    def _check_finite(self, values: Floats, name: str) -> None:
        missing = np.isnan(values)
        if missing.any():
            raise DataError(
                f"column {name!r} of the replay log is missing in {self._rows(missing)}. Replay "
                "with relaxed timeouts, or leave out requests the final stage did not finish."
            )
        infinite = np.isinf(values)
        if infinite.any():
            raise DataError(
                f"column {name!r} of the replay log is infinite in {self._rows(infinite)}; a "
                "finite number would be right."
            )

    def _check_duplicates(self, ads: Ints) -> None:
        again = (self.codes[1:] == self.codes[:-1]) & (ads[1:] == ads[:-1])
        if again.any():
            first = np.flatnonzero(again)[0]
            one, two = self.order[first] + 1, self.order[first + 1] + 1
            request, ad = self._named(self.order[first])
            raise DataError(
                f"request {request!r} holds ad {ad!r} twice, in rows {one:,} and {two:,} of the "
                f"replay log ({int(again.sum()):,} such rows); once would be right."
            )

    def _check_constant(self, name: str) -> None:
        values = np.asarray(self.slices[name])[self.order]
        codes, _ = pd.factorize(values)
        varies = (self.codes[1:] == self.codes[:-1]) & (codes[1:] != codes[:-1])
        if varies.any():
            first = np.flatnonzero(varies)[0]
            request, _ = self._named(self.order[first])
            raise DataError(
                f"slice column {name!r} varies inside request {request!r}: it is "
                f"{item(values[first])!r} and {item(values[first + 1])!r}. Recall is a request's; "
                "slice by a property of the request, such as its scene."
            )

    def _rows(self, chosen: NDArray[np.bool_]) -> str:
        first = int(np.flatnonzero(chosen)[0])
        request, ad = self._named(first)
        return (
            f"{int(chosen.sum()):,} of {len(chosen):,} rows, first in row {first + 1:,} "
            f"(request {request!r}, ad {ad!r})"
        )

    def _named(self, row: int) -> tuple[Any, Any]:
        return item(np.asarray(self.request)[row]), item(np.asarray(self.ad)[row])


def positions(request_codes: ArrayLike, value: ArrayLike, ad: ArrayLike) -> Ints:
    """0-based rank of each row inside its request by falling value, equal values by rising ad.

    One sort for all requests.

    Args:
        request_codes: `[n]` integers, the request of each row.
        value: `[n]`, not NaN.
        ad: `[n]`, numbers or text, different inside a request.

    Raises:
        DataError: A value is NaN.

    Example:
        >>> positions([0, 0, 0, 1, 1], [0.2, 0.5, 0.5, 0.1, 0.3], [7, 9, 8, 7, 9])
        array([2, 1, 0, 1, 0])
    """
    codes, values = np.asarray(request_codes), np.asarray(value, np.float64)
    if np.isnan(values).any():
        raise DataError(
            f"{int(np.isnan(values).sum()):,} of {len(values):,} values to rank by are NaN, first "
            f"in row {int(np.flatnonzero(np.isnan(values))[0]) + 1:,}; numbers would be right."
        )
    ads = np.asarray(ad)
    if ads.dtype.kind not in "iuf":
        ads, _ = sorted_codes(ads, "ad")
    order = np.lexsort((ads, -values, codes))
    ranked = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(ranked)])
    lengths = np.diff(np.append(starts, len(ranked)))
    places = np.empty(len(ranked), np.int64)
    places[order] = np.arange(len(ranked)) - np.repeat(starts, lengths)
    return places
