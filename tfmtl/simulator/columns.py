"""The columns of the simulator's logs, and the record batches made of them."""

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


def user_columns(world: World, user: Ints, scene: Ints, *, coarse: bool = False) -> dict[str, Any]:
    """The features of each row's user that a model may read.

    Args:
        world: The world of the users.
        user: `[rows]`, user ids.
        scene: `[rows]`, indices of the scenes where the user is.
        coarse: Whether dense features are rounded to whole standard deviations.
    """
    c = world.constants
    dense = np.rint(world.user_dense) if coarse else world.user_dense
    categories = category_names(c)
    person = world.people(user, scene)
    return {
        "user_id": user,
        "segment": named(categories, world.segment[person]),
        "interests": _lists(categories, world.interests[person]),
        "age": world.age[person],
        **{f"user_dense_{i}": dense[person, i] for i in range(c.latent)},
    }


def impression_fields(constants: Constants) -> list[tuple[str, pa.DataType]]:
    """Names and types of `impression_columns`."""
    return [
        ("request_id", INTEGER),
        ("day", INTEGER),
        ("scene", TEXT),
        *user_fields(constants),
        ("ad_id", INTEGER),
        ("category", TEXT),
        ("advertiser_id", INTEGER),
        ("objective", TEXT),
        ("bid", NUMBER),
        *((f"ad_dense_{i}", NUMBER) for i in range(constants.latent)),
        ("position", INTEGER),
    ]


def impression_columns(
    world: World,
    *,
    request: Ints,
    day: Ints,
    scene: Ints,
    user: Ints,
    ad: Ints,
    position: Ints,
) -> dict[str, Any]:
    """The columns known before users react, from ids and indices, all `[rows]`."""
    c = world.constants
    return {
        "request_id": request,
        "day": day,
        "scene": named([scene.name for scene in c.scenes], scene),
        **user_columns(world, user, scene),
        "ad_id": ad,
        "category": named(category_names(c), world.category[ad]),
        "advertiser_id": world.advertiser[ad],
        "objective": named(list(c.objectives), world.objective[ad]),
        "bid": world.bid[ad],
        **{f"ad_dense_{i}": world.ad_dense[ad, i] for i in range(c.latent)},
        "position": position,
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
