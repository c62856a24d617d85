"""Columns of replay logs and of scores, from tables of any kind, as NumPy arrays."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from tfmtl.errors import DataError, did_you_mean

Table: TypeAlias = pa.Table | pd.DataFrame | Mapping[str, ArrayLike]


def column(table: Table, name: str, what: str) -> NDArray:
    """A column of a table as an array `[n]`.

    Args:
        table: An Arrow table, a data frame, or columns by name.
        name: The column.
        what: What the message calls the table.

    Raises:
        DataError: There is no such column.
    """
    known = list(table.column_names if isinstance(table, pa.Table) else table.keys())
    if name not in known:
        raise DataError(
            f"{what} has no column {name!r}; its columns are {known[:60]}."
            f"{did_you_mean(name, known)}"
        )
    if not isinstance(table, pa.Table):
        return plain_array(table[name])
    values = table.column(name)
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return plain_array(values.to_pandas())


def plain_array(values: ArrayLike) -> NDArray:
    """Values as an array; text as Python's, whatever length the array was made for."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "US" else array


def as_numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Values as float64 `[n]`, missing ones as NaN.

    Raises:
        DataError: A value is not a number.
    """
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    try:
        return pd.to_numeric(pd.Series(array.ravel())).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"column {name!r} does not hold numbers: {error}.") from None


def sorted_codes(values: ArrayLike, name: str) -> tuple[NDArray[np.int64], NDArray]:
    """Each value's index among the distinct ones, and those sorted.

    Raises:
        DataError: A value is missing.
    """
    codes, distinct = pd.factorize(np.asarray(values), sort=True)
    missing = codes < 0
    if missing.any():
        raise DataError(
            f"column {name!r} is missing in {int(missing.sum()):,} of {len(codes):,} rows, first "
            f"in row {int(np.flatnonzero(missing)[0]) + 1:,}; every row needs one."
        )
    return codes.astype(np.int64), np.asarray(distinct)


def item(value: Any) -> Any:
    """A NumPy scalar as Python's, for messages and JSON."""
    return value.item() if isinstance(value, np.generic) else value
