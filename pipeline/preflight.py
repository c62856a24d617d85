"""What is looked at before anything runs: the output, its metadata, the schema, left-overs."""

import contextlib
import glob
import os
import sqlite3
import tempfile

from tfmtl.durable import SEAL, Damaged, check_whole
from tfmtl.errors import DataError, SpecError, did_you_mean

ARTIFACTS, SERVING, METADATA = "artifacts", "serving", "metadata.sqlite"
"""What a run keeps in its output."""

OURS = ("checkpoints", "days")
"""Folders among the artifacts that ML Metadata knows nothing of."""


def check_output(output: str) -> None:
    """Makes the folder of a run's outputs and refuses one that nothing can be written to.

    Args:
        output: The folder.

    Raises:
        SpecError: Its path has letters that TFX takes for a pattern.
        DataError: It is a file, has a file where a folder is to be, or cannot be written to.
    """
    wrong = sorted(set("*?[]") & set(output))
    if wrong:
        raise SpecError(
            f"--output {output!r}: TFX takes {' and '.join(wrong)} for a pattern of several "
            "folders, and would not find its files again. Give a folder without."
        )
    for part in ("", ARTIFACTS, SERVING):
        path = os.path.join(output, part) if part else output
        if os.path.lexists(path) and not os.path.isdir(path):
            raise DataError(
                f"{path} is no folder, and the run's outputs are to lie in it; move it away, or "
                "give another --output."
            )
    try:
        os.makedirs(output, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as file:
            file.write(b"\0")
    except OSError as error:
        raise DataError(
            f"nothing can be written to {output}: {error.strerror}. Give another --output, or "
            "make this one writable."
        ) from error


def check_metadata(output: str) -> None:
    """Refuses an output whose metadata are damaged or lost, before TFX meets them.

    Artifacts are numbered by the metadata: with none, new ones would go into folders of old ones.

    Raises:
        DataError: The file is no sound database, or knows of nothing while there are artifacts.
    """
    path, artifacts = os.path.join(output, METADATA), os.path.join(output, ARTIFACTS)
    remedy = (
        f"Remove {path} and {artifacts}: the next run makes all of them anew, and what was pushed "
        "stays."
    )
    problem = _problem_of(path)
    if problem is not None:
        raise DataError(f"{path} is damaged: {problem}. {remedy}")
    found = os.listdir(artifacts) if os.path.isdir(artifacts) else []
    if not _executions(path) and any(name not in OURS for name in found):
        state = "knows of no run" if os.path.exists(path) else "is gone"
        raise DataError(f"{path} {state}, and {artifacts} holds what runs made. {remedy}")


def check_schema(path: str) -> None:
    """Refuses a schema that is not there or is none.

    Raises:
        SpecError: There is no such file, or it does not parse.
    """
    # Imported here: without --schema nobody needs it.
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    if not os.path.isfile(path):
        folder, name = os.path.split(os.path.abspath(path))
        near = os.listdir(folder) if os.path.isdir(folder) else []
        raise SpecError(
            f"--schema {path}: there is no such file. A run without --schema infers one, and "
            "leaves it in artifacts/SchemaGen/schema/*/schema.pbtxt."
            f"{did_you_mean(name, near)}"
        )
    try:
        with open(path, encoding="utf-8") as file:
            text_format.Parse(file.read(), schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise SpecError(
            f"--schema {path} is no schema: {str(error).splitlines()[0]}. A text proto such as "
            "artifacts/SchemaGen/schema/*/schema.pbtxt of another run would be right."
        ) from error


def check_records(output: str) -> None:
    """Refuses rows of former runs of which some are gone: the rest would pass for all of them.

    Raises:
        DataError: The message names the file.
    """
    artifacts = glob.escape(os.path.join(output, ARTIFACTS))
    for path in glob.glob(os.path.join(artifacts, "*", "*", "*", "Split-*", "*.gz")):
        if os.path.getsize(path) == 0:
            raise DataError(damaged_records(path, "it is empty"))
    for path in glob.glob(os.path.join(artifacts, "*", "*", "*", SEAL)):
        folder = os.path.dirname(path)
        try:
            check_whole(folder)
        except Damaged as damage:
            raise DataError(
                f"{damage}. Remove {folder}; the same command makes it anew."
            ) from damage


def damaged_records(path: str, why: str) -> str:
    """The sentence for a file of rows between two components that cannot be read."""
    parts = path.split(os.sep)
    component = parts[parts.index(ARTIFACTS) + 1] if ARTIFACTS in parts else ""
    whose = f", of {component}," if component else ""
    folder = os.path.dirname(os.path.dirname(path))
    return f"{path}{whose} is damaged: {why}. Remove {folder}; the same command makes it anew."


def _problem_of(path: str) -> str | None:
    if not os.path.lexists(path):
        return None
    if not os.path.isfile(path):
        return "it is no file"
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            ((answer,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        return str(error)
    return None if answer == "ok" else str(answer).splitlines()[-1]


def _executions(path: str) -> int:
    """How many runs of components the metadata know of."""
    if not os.path.exists(path):
        return 0
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            ((count,),) = database.execute('SELECT COUNT(*) FROM "Execution"').fetchall()
        except sqlite3.OperationalError:
            return 0  # No such table: nothing has been written yet.
    return count
