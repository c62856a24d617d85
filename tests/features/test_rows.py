"""Packed rows: the same from memory and from files, each once, in an order that repeats."""

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl.errors import DataError
from tfmtl.features.rows import (
    MEMORY,
    ArrayRows,
    FileRows,
    PackedData,
    label_moments,
    packed_spec,
    row_bytes,
)
from tfmtl.run import train

_, DATA = packed(640, 256)


def write(rows, path):
    """One tf.Example a row, as Transform writes them."""
    options = tf.io.TFRecordOptions(compression_type="GZIP" if path.suffix == ".gz" else "")
    arrays = {name: np.asarray(value) for name, value in rows.tensors.items()}
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for i in range(rows.count()):
            example = tf.train.Example()
            for name, array in arrays.items():
                feature = example.features.feature[name]
                values = feature.float_list if array.dtype.kind == "f" else feature.int64_list
                values.value.extend(np.atleast_1d(array[i]).tolist())
            writer.write(example.SerializeToString())


def in_files(rows, folder, *suffixes):
    """The rows in as many files as there are suffixes."""
    folder.mkdir()
    parts = np.array_split(np.arange(rows.count()), len(suffixes))
    for i, (part, suffix) in enumerate(zip(parts, suffixes, strict=True)):
        one = ArrayRows({name: tf.gather(value, part) for name, value in rows.tensors.items()})
        write(one, folder / f"rows-{i}{suffix}")
    return FileRows(PROBLEM, [str(path) for path in folder.iterdir()])


@pytest.fixture(scope="module", params=["memory", "files", "windows"])
def rows(request, tmp_path_factory):
    if request.param == "memory":
        return DATA.train
    files = in_files(DATA.train, tmp_path_factory.mktemp("packed") / "train", "", "", ".gz")
    if request.param == "windows":
        files.memory = row_bytes(packed_spec(PROBLEM)) * 200
    return files


def flat(batches, name="numbers_ad"):
    return np.concatenate([batch[name].numpy() for batch in batches])


def test_without_a_seed_the_rows_come_in_their_own_order(rows):
    assert rows.count() == 640
    for name, expected in DATA.train.tensors.items():
        np.testing.assert_array_equal(flat(rows.batches(100), name), expected)


def test_a_seeded_pass_has_every_row_once_and_another_seed_another_order(rows):
    one, other = (flat(rows.batches(64, seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one, other)
    expected = sorted(map(tuple, DATA.train.tensors["numbers_ad"].numpy()))
    assert sorted(map(tuple, one)) == sorted(map(tuple, other)) == expected


def test_a_seeded_pass_is_the_same_however_often_it_is_begun(rows):
    batches = rows.batches(64, seed=1)
    first = flat(batches)
    np.testing.assert_array_equal(flat(batches), first)
    np.testing.assert_array_equal(flat(rows.batches(64, seed=1)), first)


@pytest.mark.parametrize("seed", [None, 3])
def test_skipped_batches_are_those_at_the_start(rows, seed):
    whole = flat(rows.batches(64, seed=seed))
    np.testing.assert_array_equal(flat(rows.batches(64, seed=seed, skip=4)), whole[256:])


def test_rows_that_do_not_fit_are_shuffled_within_windows_and_are_not_kept(rows):
    if isinstance(rows, FileRows) and rows.memory < MEMORY:
        flat(rows.batches(64, seed=1))
        assert rows._kept is None
        order = [tuple(row) for row in flat(rows.batches(64, seed=1))]
        # 200 rows are three batches: the second window begins with rows that the first lacks.
        assert sorted(order[:192]) != sorted(map(tuple, flat(rows.batches(192))[:192]))
        assert len(order) == 640


def test_a_seeded_pass_leaves_out_a_part_of_a_batch_but_never_all_rows(rows):
    assert len(flat(rows.batches(300, seed=1))) == 600
    assert len(flat(rows.batches(1000, seed=1))) == 640


def test_files_are_loaded_as_the_rows_they_hold(rows):
    if isinstance(rows, FileRows):
        loaded = rows.load().tensors
        assert set(loaded) == set(DATA.train.tensors)
        for name, expected in DATA.train.tensors.items():
            np.testing.assert_array_equal(loaded[name], expected)


def test_label_moments_are_those_of_observed_rows(rows):
    mean, std = label_moments(rows)
    labels = DATA.train.tensors["labels"].numpy().astype(np.float64)
    seen = DATA.train.tensors["label_weights"].numpy() > 0
    for k in range(labels.shape[1]):
        assert mean[k] == pytest.approx(labels[seen[:, k], k].mean())
        assert std[k] == pytest.approx(labels[seen[:, k], k].std(), rel=1e-6)


def test_a_progress_bar_does_not_change_what_is_learnt_from_files(tmp_path):
    data = PackedData(
        in_files(DATA.train, tmp_path / "train", "", ""),
        in_files(DATA.validation, tmp_path / "validation", ".gz"),
        DATA.table_rows,
    )
    config = experiment(backbone={"name": "mmoe", **SMALL["mmoe"]}, epochs=1)
    one, other = (train(config, data, verbose=verbose).model.variables for verbose in (0, 1))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_files_and_rows_of_different_number_are_refused():
    with pytest.raises(DataError, match="was the split empty"):
        FileRows(PROBLEM, [])
    with pytest.raises(DataError, match="'labels': 2"):
        ArrayRows({"ids_context": np.zeros([3, 1]), "labels": np.zeros([2, 1])})
