"""What disks and damaged files do to a run, in a line with path and remedy."""

import errno
import os
import shutil

import pytest
import tensorflow as tf

from pipeline.explain import explained
from tfmtl.errors import DataError, SpecError


@pytest.fixture
def output(tmp_path):
    (tmp_path / ".lock").touch()
    return tmp_path


def told(output, error) -> str:
    """What a run says that ends with an error."""
    with pytest.raises(DataError) as said, explained(str(output)):
        try:
            raise error
        except Exception as inner:
            # As TFX and Beam do.
            raise RuntimeError("component failed") from inner
    assert "\n" not in str(said.value)
    return str(said.value)


FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    tf.errors.ResourceExhaustedError(None, None, "x.data; No space left on device"),
    RuntimeError("sqlite3: database or disk is full"),
    RuntimeError("OSError: [Errno 28] No space left on device [while running 'Write']"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_said_with_the_output_and_that_the_command_goes_on(output, error):
    sentence = told(output, error)
    assert sentence.startswith(f"{output}: ")
    assert "Make room, or give another --output; the same command goes on from here." in sentence


def test_the_file_is_named_where_the_system_names_it(output):
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/serving/shop")
    assert told(output, error).startswith("/mnt/serving/shop: Read-only file system. Make it acc")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR])
def test_what_cannot_be_written_is_said_with_a_remedy(output, number):
    sentence = told(output, OSError(number, os.strerror(number), f"{output}/artifacts"))
    assert sentence.startswith(f"{output}/artifacts: {os.strerror(number)}. M")
    assert "another --output" in sentence


def test_an_output_that_was_removed_meanwhile_is_said_to_be(output):
    shutil.rmtree(output)
    sentence = told(output, FileNotFoundError(2, "No such file", f"{output}/artifacts/x"))
    assert f"{output} was removed while the run was at work" in sentence


def test_a_model_that_diverged_is_said_with_the_rate_to_lower(output):
    error = FloatingPointError("the training loss is nan in epoch 0. Lower training.learning_rate")
    assert told(output, error) == str(error)


@pytest.mark.parametrize("compression", ["", "GZIP"])
@pytest.mark.parametrize("way", ["cut", "changed"])
def test_a_damaged_file_of_rows_is_found_and_named(output, compression, way):
    folder = output / "artifacts/Transform/transformed_examples/5"
    (folder / "Split-train").mkdir(parents=True)
    ending = ".gz" if compression else ""
    for shard in ("data-00000-of-00002", "data-00001-of-00002"):
        with tf.io.TFRecordWriter(str(folder / f"Split-train/{shard}{ending}"), compression) as out:
            for i in range(50):
                out.write(os.urandom(99) + bytes(i))
    path = folder / f"Split-train/data-00001-of-00002{ending}"
    content = path.read_bytes()
    half = len(content) // 2
    changed = bytes([content[half] ^ 255])
    path.write_bytes(content[:half] + (b"" if way == "cut" else changed + content[half + 1 :]))
    sentence = told(output, tf.errors.DataLossError(None, None, "corrupted record at 1234"))
    assert sentence.startswith(f"{path}, of Transform, is damaged: ")
    assert f"Remove {folder}; the same command makes it anew" in sentence


def test_what_has_its_own_sentence_and_what_is_a_mistake_of_ours_pass_as_they_are(output):
    for error in (DataError("line 7"), SpecError("x"), KeyError("ours"), ValueError("ours")):
        with pytest.raises(type(error)) as passed, explained(str(output)):
            raise error
        assert passed.value is error
    # As text, of another process.
    with pytest.raises(RuntimeError), explained(str(output)):
        raise RuntimeError("tfmtl.errors.DataError: rows.csv, line 7: Permission denied")
