"""What ends a run, in a sentence: the user's mistakes, and what disks and files do meanwhile."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator

from pipeline.preflight import ARTIFACTS, METADATA, damaged_records
from tfmtl.errors import DataError, SpecError

OURS = re.compile(r"(?:DataError|SpecError): (.+?)(?: \[while running .*)?$", re.M)
DIVERGED = re.compile(r"FloatingPointError: (.+)")
FULL = re.compile(r"No space left on device|Disk quota exceeded|database or disk is full")
LOCKED = re.compile(
    r"Read-only file system|Permission denied|Operation not permitted|"
    r"attempt to write a readonly database"
)
MISPLACED = re.compile(r"Not a directory|Is a directory")
BROKEN = re.compile(r"Input/output error|disk I/O error|database disk image is malformed")
RECORDS = re.compile(
    r"DataLoss|[Cc]orrupted record|[Tt]runcated record|Not a valid TFRecord|end-of-stream marker|"
    r"BadGzipFile|Not a gzipped file|CRC check failed|while decompressing|[Ii]nvalid compressed"
)


@contextlib.contextmanager
def explained(output: str) -> Iterator[None]:
    """Turns what a disk, a damaged file or a diverging model ends a run with into a sentence.

    Args:
        output: Folder of the run's outputs.

    Raises:
        DataError: With what is wrong, where, and what to do; all other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        sentence = sentence_of(error, output)
        if sentence is None:
            raise
        raise DataError(sentence) from error


def explanation(error: BaseException) -> str | None:
    """The sentence of an error that the user can mend, or `None`.

    TFX, Beam and Keras Tuner wrap errors, and those of other processes arrive as text.
    """
    for part in causes(error):
        if isinstance(part, DataError | SpecError):
            return re.sub(r" \[while running .*", "", str(part), flags=re.S)
        if found := OURS.findall(str(part)):
            return found[-1]
    return None


def sentence_of(error: BaseException, output: str) -> str | None:
    """The sentence of an error in a run, `None` where it has its own or is a mistake of ours."""
    if explanation(error) is not None:
        return None
    chain = list(causes(error))
    texts = [f"{type(part).__name__}: {part}" for part in chain]
    # First: a folder that is gone makes many other errors.
    if not os.path.exists(os.path.join(output, ".lock")):
        return (
            f"{output} was removed while the run was at work in it. The same command begins anew."
        )
    for text in texts:
        if found := DIVERGED.search(text):
            return found.group(1)
    path = next((p.filename for p in chain if isinstance(p, OSError) and p.filename), output)
    path = os.fsdecode(path) if isinstance(path, str | bytes) else output
    for pattern, remedy in (
        (FULL, "Make room, or give another --output; the same command goes on from here"),
        (LOCKED, "Make it accessible to this user, or give another --output"),
        (MISPLACED, "Move away what is in the place of a folder, or give another --output"),
        (
            BROKEN,
            f"Look after the disk; if it is sound, remove {os.path.join(output, METADATA)} and "
            f"{os.path.join(output, ARTIFACTS)} to begin anew",
        ),
    ):
        for text in texts:
            if found := pattern.search(text):
                return f"{path}: {found.group(0)}. {remedy}."
    if any(RECORDS.search(text) for text in texts):
        return _damaged_file(output)
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those it came of, each once."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _damaged_file(output: str) -> str | None:
    # Libraries rarely say which file it was; after a failure there is time to look.
    import tensorflow as tf

    pattern = os.path.join(glob.escape(os.path.join(output, ARTIFACTS)), "**", "Split-*", "*")
    for path in sorted(glob.glob(pattern, recursive=True), key=os.path.getmtime, reverse=True):
        if not re.search(r"-\d{5}-of-\d{5}|\.gz$", path):
            continue
        records = tf.data.TFRecordDataset(path, "GZIP" if path.endswith(".gz") else "")
        try:
            records.reduce(0, lambda count, _: count + 1)
        except tf.errors.OpError as error:
            # TensorFlow adds where in its graph it read.
            why = re.sub(r"\s*\[.*|\{\{.*?\}\}\s*", "", error.message.splitlines()[0])
            return damaged_records(path, why.strip() or "it is cut off")
    return None
