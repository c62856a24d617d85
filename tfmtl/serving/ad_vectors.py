"""The vectors of a catalogue's ads, computed once: `python -m tfmtl.serving.catalogue`."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tfmtl.data.hashing import hash_text
from tfmtl.data.readers import open_table
from tfmtl.data.splits import as_text
from tfmtl.data.texts import Unparsable
from tfmtl.data.types import ABSENT, arrow_schema, typed
from tfmtl.declare.features import Column
from tfmtl.errors import DataError, did_you_mean

Ads: TypeAlias = str | os.PathLike[str] | pa.Table | pd.DataFrame
IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
BATCH_ROWS = 8192


def ad_vectors(
    model: Any,
    ads: Ads,
    *,
    id_column: str = "ad_id",
    batch_rows: int = BATCH_ROWS,
    progress: bool = False,
) -> pa.Table:
    """Returns the vectors of a catalogue; `write_ad_vectors` needs memory for one batch only.

    Args:
        model: Folder of a SavedModel that has a signature `ad_tower`, or a loaded one.
        ads: A CSV, TSV or Parquet file, a folder or a pattern of them, an Arrow table or a
            pandas frame. It has the columns that `ad_tower` takes, and no ad twice.
        id_column: Column with the ad's id.
        batch_rows: Number of ads per call of the tower.
        progress: Whether to show a progress bar.

    Returns:
        A table with the id and `vector`, a fixed-size list of float32, in the order of the ads.
        The id has the type with which the model reads it, or is text if it does not.

    Raises:
        DataError: The model has no towers, a column is missing, or an id is missing or occurs
            twice.
    """
    return pa.Table.from_batches(_Catalogue(model, ads, id_column).batches(batch_rows, progress))


def write_ad_vectors(
    model: Any,
    ads: Ads,
    out: str,
    *,
    id_column: str = "ad_id",
    batch_rows: int = BATCH_ROWS,
    progress: bool = False,
) -> int:
    """Writes the table of `ad_vectors` as a Parquet file, and returns the number of ads.

    The file appears when it is complete. In memory are one batch, and eight bytes per ad to find
    ids that occur twice.

    Args:
        model: See `ad_vectors`.
        ads: See `ad_vectors`.
        out: File to write; it must not exist.
        id_column: See `ad_vectors`.
        batch_rows: See `ad_vectors`; also the rows of a row group.
        progress: See `ad_vectors`.

    Raises:
        DataError: As `ad_vectors`, or the file exists.
    """
    if os.path.exists(out):
        raise DataError(f"{out!r} is there already; remove it, or write to another file.")
    catalogue = _Catalogue(model, ads, id_column)
    partial = f"{out}.partial"
    try:
        with pq.ParquetWriter(partial, catalogue.schema) as writer:
            for batch in catalogue.batches(batch_rows, progress):
                writer.write_batch(batch, row_group_size=batch_rows)
        os.replace(partial, out)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return catalogue.count


class _Catalogue:
    """Ads whose ids and columns have been checked, and the tower that makes their vectors."""

    def __init__(self, model: Any, ads: Ads, id_column: str) -> None:
        self.signature = _ad_tower(model)
        self.columns = _columns(self.signature)
        self.id_column, self.ads = id_column, ads
        ids = self.columns.get(id_column, Column(name=id_column, dtype="string"))
        if ids.max_values:
            raise DataError(f"the id {id_column!r} is a column of lists; an ad has one id.")
        # Opened first, so that a missing column is reported before the ids are read.
        self.rows = _open(ads, {**self.columns, id_column: ids})
        self.count = _check_ids(ads, ids)
        width = self.signature.structured_outputs["vector"].shape[1]
        self.schema = pa.schema(
            [(id_column, arrow_schema({id_column: ids})[0].type)]
            + [("vector", pa.list_(pa.float32(), width))]
        )

    def batches(self, batch_rows: int, progress: bool) -> Iterator[pa.RecordBatch]:
        """Yields batches of ids and vectors."""
        bar = tqdm(total=self.count, unit=" ads", unit_scale=True, disable=not progress)
        with bar:
            for batch in self.rows:
                for start in range(0, batch.num_rows, batch_rows):
                    part = batch.slice(start, batch_rows)
                    yield self._vectors(part)
                    bar.update(part.num_rows)

    def _vectors(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        named = {n: _tensor(batch.column(n), column) for n, column in self.columns.items()}
        values = self.signature(**named)["vector"].numpy()
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        return pa.RecordBatch.from_arrays(
            [batch.column(self.id_column), vectors], schema=self.schema
        )


def _ad_tower(model: Any) -> Any:
    if isinstance(model, (str, os.PathLike)):
        # Imported here, so that `--help` does not wait for TensorFlow.
        import tensorflow as tf

        path = os.fspath(model)
        if not tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            below = tf.io.gfile.glob(os.path.join(path, "*", "saved_model.pb"))
            hint = f" Did you mean {os.path.dirname(max(below))!r}?" if below else ""
            raise DataError(f"{path!r} is no SavedModel: it holds no saved_model.pb.{hint}")
        model = tf.saved_model.load(path)
    signatures = dict(model.signatures)
    if "ad_tower" not in signatures:
        raise DataError(
            f"the model has no signature 'ad_tower', but {sorted(signatures)}; a model of two "
            "towers has one: Model(backbone={'name': 'two_tower'})."
        )
    return signatures["ad_tower"]


def _columns(signature: Any) -> dict[str, Column]:
    # Imported here for the same reason.
    from tfmtl.serving.signature_names import named_inputs

    return {
        name: Column(name=name, dtype=spec.dtype.name, max_values=int(spec.shape.rank == 2))
        for name, spec in sorted(named_inputs(signature).items())
    }


def _open(ads: Ads, columns: Mapping[str, Column]) -> Iterator[pa.RecordBatch]:
    if isinstance(ads, (str, os.PathLike)):
        return open_table(os.fspath(ads), columns)
    table = ads if isinstance(ads, pa.Table) else pa.Table.from_pandas(ads, preserve_index=False)
    for name in columns:
        if name not in table.column_names:
            known = table.column_names
            raise DataError(
                f"the ads have no column {name!r}; their columns are {known[:60]}."
                f"{did_you_mean(name, known)}"
            )
    return _typed_batches(table, columns)


def _typed_batches(table: pa.Table, columns: Mapping[str, Column]) -> Iterator[pa.RecordBatch]:
    for batch in table.select(list(columns)).to_batches():
        arrays = []
        for name, column in columns.items():
            try:
                arrays.append(typed(batch.column(name), column, "|", ("",)))
            except Unparsable as error:
                raise DataError(
                    f"column {name!r} of the ads is no {column.describe()}: {error.problem}."
                ) from None
        yield pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(columns))


def _check_ids(ads: Ads, column: Column) -> int:
    """Returns the number of ads; refuses ids that are missing or occur twice."""
    hashes = [np.empty(0, np.uint64)]
    rows = 0
    for batch in _open(ads, {column.name: column}):
        ids = batch.column(0)
        if ids.null_count:
            first = rows + int(np.argmax(ids.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(
                f"the id {column.name!r} is missing in row {first + 1:,} of the ads; every ad "
                "needs one."
            )
        hashes.append(hash_text(as_text(ids)))
        rows += batch.num_rows
    of_rows = np.concatenate(hashes)
    order = np.argsort(of_rows, kind="stable")
    again = np.flatnonzero(of_rows[order][1:] == of_rows[order][:-1])
    if len(again):
        _refuse_double(ads, column, np.union1d(order[again], order[again + 1]))
    return rows


def _refuse_double(ads: Ads, column: Column, suspects: IntArray) -> None:
    # Two ids may have the same hash, so the ids of equal hashes are compared themselves.
    seen: dict[Any, int] = {}
    doubles: list[tuple[Any, int, int]] = []
    start = 0
    for batch in _open(ads, {column.name: column}):
        inside = suspects[(suspects >= start) & (suspects < start + batch.num_rows)]
        for row in inside:
            value = batch.column(0)[int(row) - start].as_py()
            if value in seen:
                doubles.append((value, seen[value], int(row)))
            seen.setdefault(value, int(row))
        start += batch.num_rows
    if doubles:
        value, first, second = doubles[0]
        more = f" ({len(doubles):,} rows repeat an id)" if len(doubles) > 1 else ""
        raise DataError(
            f"the ad with {column.name!r} {value!r} stands in rows {first + 1:,} and "
            f"{second + 1:,}{more}; an ad has one vector, so one row would be right."
        )


def _tensor(values: pa.Array, column: Column) -> Any:
    import tensorflow as tf

    absent = ABSENT[column.dtype]
    if not column.max_values:
        filled = values.fill_null(absent)
        return tf.constant(filled.to_numpy(zero_copy_only=False), column.dtype)
    lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    flat = tf.constant(values.flatten().to_numpy(zero_copy_only=False), column.dtype)
    return tf.RaggedTensor.from_row_lengths(flat, lengths).to_tensor(absent)
