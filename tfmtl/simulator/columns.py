"""Columns of the simulator's logs, and the batches they make."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfmtl.simulator.constants import Constants
from tfmtl.simulator.world import Ints, World

TEXT, INTEGER, NUMBER, EXACT = pa.string(), pa.int64(), pa.float32(), pa.float64()


def user_fields(constants: Constants) -> list[tuple[str, pa.DataType]]:
    """Names and types of `user_columns`."""
    return [
        ("user_id", INTEGER),
        ("segment", TEXT),
        ("interests", pa.list_(TEXT)),
        ("age", NUMBER),
        *((f"user_dense_{i}", NUMBER) for i in range(constants.latent)),
    ]


def user_columns(world: World, user: Ints, *, coarse: bool = False) -> dict[str, Any]:
    """What a model may know of the user of each row.

    Args:
        world: Whose users.
        user: `[rows]`.
        coarse: Whether dense features are rounded to whole standard deviations.
    """
    c = world.constants
    dense = np.rint(world.user_dense) if coarse else world.user_dense
    categories = category_names(c)
    return {
        "user_id": user,
        "segment": named(categories, world.segment[user]),
        "interests": _lists(categories, world.interests[user]),
        "age": world.age[user],
        **{f"user_dense_{i}": dense[user, i] for i in range(c.latent)},
    }


def category_names(constants: Constants) -> list[str]:
    """The text of each category."""
    return [f"c{i:02d}" for i in range(constants.categories)]


def named(names: Sequence[str], index: Ints) -> pa.Array:
    """The name at each index."""
    return pa.array(names, TEXT).take(pa.array(index))


def record_batch(columns: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """A batch of Arrow arrays and NumPy arrays, the latter cast to the schema's types."""
    arrays = [
        column
        if isinstance(column, pa.Array)
        else pa.array(column.astype(schema.field(name).type.to_pandas_dtype(), copy=False))
        for name, column in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _lists(names: Sequence[str], indices: Ints) -> pa.Array:
    rows, width = indices.shape
    offsets = pa.array(np.arange(0, rows * width + 1, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, named(names, indices.ravel()))
