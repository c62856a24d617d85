"""Batches of equal size and Parquet files of equal size, written in constant memory."""

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

ROWS_PER_GROUP = 100_000
ROWS_PER_FILE = 1_000_000


def sized(
    blocks: Iterable[pa.RecordBatch], rows: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yields batches of `rows` rows each; the last one holds the remaining rows."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += block.num_rows
        if count >= rows:
            whole = pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()[0]
            for start in range(0, count - rows + 1, rows):
                yield whole.slice(start, rows)
            count %= rows
            waiting = [whole.slice(whole.num_rows - count)]
    if count:
        yield pa.Table.from_batches(waiting, schema).combine_chunks().to_batches()[0]


def new_folder(path: str) -> None:
    """Creates a folder if it does not exist.

    Raises:
        FileExistsError: The folder is not empty.
    """
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise FileExistsError(f"the folder {path!r} is not empty; give a new or an empty one.")


def write_files(
    path: str,
    batches: Iterable[pa.RecordBatch],
    *,
    rows: int,
    rows_per_file: int = ROWS_PER_FILE,
    progress: bool = False,
) -> list[str]:
    """Writes batches as Parquet files into a folder and returns the files.

    Args:
        path: The folder; it is created if it does not exist.
        batches: The rows, read one batch at a time.
        rows: The expected number of rows, for the progress bar.
        rows_per_file: Rows per file.
        progress: Whether to show a progress bar on stderr.

    Raises:
        FileExistsError: The folder is not empty.
        ValueError: `rows_per_file` is not positive.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file={rows_per_file}; at least 1 makes sense.")
    new_folder(path)
    files: list[str] = []
    writer, room = None, 0
    try:
        with tqdm(
            total=rows,
            desc=os.path.basename(path),
            unit=" rows",
            unit_scale=True,
            disable=not progress,
        ) as bar:
            for batch in batches:
                while batch.num_rows:
                    if writer is None:
                        files.append(os.path.join(path, f"part-{len(files):05d}.parquet"))
                        writer, room = pq.ParquetWriter(files[-1], batch.schema), rows_per_file
                    piece = batch.slice(0, room)
                    writer.write_table(pa.Table.from_batches([piece]))
                    bar.update(piece.num_rows)
                    batch, room = batch.slice(piece.num_rows), room - piece.num_rows
                    if not room:
                        writer.close()
                        writer = None
    finally:
        if writer is not None:
            writer.close()
    return files
