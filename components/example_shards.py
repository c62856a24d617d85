"""Converts Arrow rows to serialised tf.Examples and writes them as TFRecord files."""

import os

import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from tfmtl.data.types import lists

SHARD_BYTES = 64 << 20
# With several files per split, its readers work in parallel even if the split is small.
SHARDS_AT_ONCE = 2


class Encoder:
    """Encodes batches of scalar and list columns; a null is a feature without a value."""

    def __init__(self) -> None:
        self._encoder = RecordBatchToExamplesEncoder()

    def __call__(self, batch: pa.RecordBatch) -> list[bytes]:
        """Returns one serialised tf.Example per row."""
        arrays = [as_lists(array) for array in batch.columns]
        return self._encoder.encode(pa.RecordBatch.from_arrays(arrays, batch.schema.names))


def as_lists(array: pa.Array) -> pa.Array:
    """A column as lists: a scalar becomes a list of one, text becomes bytes, nulls stay null."""
    if pa.types.is_list(array.type):
        lengths, values = pc.fill_null(pc.list_value_length(array), 0), array.flatten()
    else:
        lengths, values = array.is_valid().cast(pa.int32()), array.drop_null()
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    return lists(values, lengths.to_numpy(zero_copy_only=False))


class ShardWriter:
    """Writes the records of one split to `data_tfrecord-NNNNN-of-NNNNN`, uncompressed.

    Two files are open at a time. Each gets half of every batch and grows to `SHARD_BYTES`, so the
    same rows give the same files. They are not compressed: gzip, even at its fastest, more than
    halves the speed of writing and slows down the reading in every epoch. The records only use
    local disk space.

    Args:
        folder: The folder of the files; it is created if it does not exist.
        shard_bytes: Size at which files are closed and new ones are started.
    """

    def __init__(self, folder: str, *, shard_bytes: int = SHARD_BYTES) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._begun: list[str] = []
        self._open: list[tf.io.TFRecordWriter] = []
        self._bytes = 0

    def write(self, records: list[bytes]) -> None:
        """Appends records to the open files."""
        if not self._open:
            self._begin()
        share = -(-len(records) // SHARDS_AT_ONCE)
        for place, writer in enumerate(self._open):
            for record in records[place * share : (place + 1) * share]:
                writer.write(record)
        self._bytes += sum(map(len, records))
        if self._bytes >= self.shard_bytes * SHARDS_AT_ONCE:
            self._end()

    def close(self) -> None:
        """Closes the files and renames them, because only now their number is known."""
        self._end()
        for number, path in enumerate(self._begun):
            name = f"data_tfrecord-{number:05d}-of-{len(self._begun):05d}"
            os.rename(path, os.path.join(self.folder, name))

    def _begin(self) -> None:
        for _ in range(SHARDS_AT_ONCE):
            self._begun.append(os.path.join(self.folder, f"unnamed-{len(self._begun)}"))
            self._open.append(tf.io.TFRecordWriter(self._begun[-1]))
        self._bytes = 0

    def _end(self) -> None:
        for writer in self._open:
            writer.close()
        self._open = []
