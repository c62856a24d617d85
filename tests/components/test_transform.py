"""ShardedTransform gives what TFX's Transform gives, however the rows are divided into files."""

import filecmp
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.analyzers import TransformGraph
from pipeline.trainer_module import table_rows
from tests.doubles.transforms import transform, write_examples
from tests.features.test_encodings import SMALL
from tfmtl import registry
from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    count_encoding,
    numerical,
    regression,
    target_encoding,
)
from tfmtl.errors import DataError
from tfmtl.features.encodings import NumericalEncoding
from tfmtl.features.encodings.base import standardised
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import FileRows

COUNT = 600
MAKE = {"categorical": categorical, "numerical": numerical}
PARTS = {name: registry.get("encoding", name) for name in SMALL}
EVERY_ENCODING = tuple(
    MAKE[part.feature_kind](
        f"of_{name}",
        column="integer" if name == "identity" else part.feature_kind,
        encoding={"name": name, **SMALL[name]},
    )
    for name, part in PARTS.items()
)
PROBLEM = ProblemSpec(
    features=(
        *EVERY_ENCODING,
        categorical("whole number", column="integer", dtype="int64"),
        categorical("words", side="ad", max_values=3, weights="word_weights"),
        categorical("nothing", side="user"),
        categorical("no_integer", side="user", dtype="int64"),
        numerical("no_number", side="user", indicator=True),
        numerical("no_bins", side="user", encoding="quantile", bins=4),
        count_encoding("categorical"),
        target_encoding("categorical", task="ctr"),
        target_encoding("integer", dtype="int64", task="quality"),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        regression("quality", label="quality"),
    ),
    request_id="request",
)


def rows(count=COUNT, seed=0):
    """Rows with ties in the counts, text with spaces and line breaks, and missing values."""
    rng = np.random.default_rng(seed)
    words = ["a", "b", "z z", "é", "A", "NA", "", "broken\nline", "10", "9"]
    given = []
    for i in range(count):
        word = words[i % len(words)]
        number = float(np.float32(rng.normal(3, 20)))
        count_of_words = i % 5
        click = float(i % 3 == 0)
        given.append(
            {
                "categorical": [word] if word else [],
                "numerical": [] if i % 11 == 0 else [0.0 if i % 13 == 0 else number],
                "integer": [] if i % 7 == 0 else [(9, 10, 2, -3, 4, 1)[i % 6]],
                "words": [("u", "v", "w x", "y")[j] for j in rng.integers(0, 4, count_of_words)],
                "word_weights": [float(w) for w in np.float32(rng.random(count_of_words))],
                "click": [click],
                "conversion": [float(i % 6 == 0)],
                "quality": [float(np.float32(rng.normal(2, 5)))],
                "request": [f"r{i}"],
                FOLD: [i // 4],
            }
        )
    return given


def packed_rows(folder, problem=PROBLEM, split="train"):
    """Packed rows of a split, ordered by their group."""
    directory = os.path.join(folder, f"Split-{split}")
    files = [os.path.join(directory, name) for name in os.listdir(directory)]
    tensors = {k: v.numpy() for k, v in FileRows(problem, files).load().tensors.items()}
    order = np.argsort(tensors["group"])
    return {name: value[order] for name, value in tensors.items()}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("examples"))
    write_examples(folder, rows(), shards=3)
    write_examples(folder, rows(100, seed=1), split="validation")
    return folder


@pytest.fixture(scope="module")
def ours(examples, tmp_path_factory):
    graph, (packed,) = transform(
        PROBLEM, examples, str(tmp_path_factory.mktemp("ours")), null_values=["NA"]
    )
    return graph, packed


@pytest.fixture(scope="module")
def stock(examples, tmp_path_factory):
    graph, (packed,) = transform(
        PROBLEM, examples, str(tmp_path_factory.mktemp("stock")), null_values=["NA"], stock=True
    )
    return graph, packed


def assert_same(packed, expected):
    """The same bits, except sines: TensorFlow's vector units and its scalar code differ in one."""
    assert set(packed) == set(expected)
    for name, value in packed.items():
        if name != "numbers_context":
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
            continue
        cyclic = np.array([column == "of_cyclic" for column in context_columns()])
        np.testing.assert_array_equal(value[:, ~cyclic], expected[name][:, ~cyclic])
        np.testing.assert_allclose(value[:, cyclic], expected[name][:, cyclic], atol=2e-7)


def context_columns():
    """The feature of each number of the context side."""
    widths = [(f.name, _width(f)) for f in PROBLEM.features if f.side == "context"]
    return [name for name, width in widths for _ in range(width)]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "validation"])
def test_packed_rows_are_those_of_tfxs_component_on_every_encoding(ours, stock, split):
    packed, expected = packed_rows(ours[1], split=split), packed_rows(stock[1], split=split)
    assert set(packed) == set(expected)
    for name in ("ids_user", "ids_ad", "labels", "label_weights", "group"):
        np.testing.assert_array_equal(packed[name], expected[name], err_msg=name)
    # TFX's quantiles are approximate: a value near an edge may fall on its other side.
    with_ids = [f.name for f in PROBLEM.features if f.side == "context" and _has_ids(f)]
    differ = (packed["ids_context"] != expected["ids_context"]).mean(0)
    by_name = dict(zip(with_ids, differ, strict=True))
    assert by_name.pop("of_quantile") < 0.02
    assert set(by_name.values()) == {0}
    np.testing.assert_allclose(packed["numbers_ad"], expected["numbers_ad"], atol=1e-6)
    np.testing.assert_allclose(packed["numbers_user"], expected["numbers_user"], atol=1e-6)
    piecewise = np.array([name == "of_piecewise" for name in context_columns()])
    ours_, theirs = packed["numbers_context"], expected["numbers_context"]
    np.testing.assert_allclose(ours_[:, piecewise], theirs[:, piecewise], atol=0.02)
    np.testing.assert_allclose(ours_[:, ~piecewise], theirs[:, ~piecewise], atol=2e-6)


@pytest.mark.slow
def test_the_outputs_open_with_tfxs_classes_and_have_the_same_sizes_and_schema(ours, stock):
    output, expected = tft.TFTransformOutput(ours[0]), tft.TFTransformOutput(stock[0])
    assert table_rows(PROBLEM, output) == table_rows(PROBLEM, expected)
    assert output.raw_feature_spec() == expected.raw_feature_spec()
    assert output.transformed_feature_spec() == expected.transformed_feature_spec()
    assert output.vocabulary_by_name("nothing") == [b"\0"]
    for name in ("of_vocabulary", "words"):
        assert output.vocabulary_by_name(name) == expected.vocabulary_by_name(name)


@pytest.mark.slow
def test_both_graphs_encode_served_rows_alike_without_labels(ours, stock):
    columns = {
        "categorical": tf.constant(["a", "NA", "", "new", "broken\nline"]),
        "numerical": tf.constant([0.0, float("nan"), 3.5, 1e6, -20.0]),
        "integer": tf.constant([9, 10, tf.int64.min, 77, -3], tf.int64),
        "words": tf.constant([["u", "", ""], ["", "", ""], ["new", "w x", "y"]] + [["v"] * 3] * 2),
        "word_weights": tf.constant(np.float32([[1, 0, 0], [0, 0, 0], [1, 2, 3]] + [[1] * 3] * 2)),
        "nothing": tf.constant(["", "x", "", "", ""]),
        "no_integer": tf.constant([tf.int64.min, 0, 1, -1, 2], tf.int64),
        "no_number": tf.constant([float("nan"), 0, 1, 2, 3]),
        "no_bins": tf.constant([float("nan"), 0, 1, 2, 3]),
    }
    found, expected = (
        TransformGraph(tft.TFTransformOutput(graph), PROBLEM)(columns)
        for graph in (ours[0], stock[0])
    )
    assert set(found) == set(expected) and "labels" not in found
    for name in found:
        if name.startswith("ids_"):
            differ = (found[name] != expected[name]).numpy()
            # An integer -1 is TFX's own line for an empty vocabulary, so there it has an id.
            assert differ.sum() <= (name == "ids_user"), name
        else:
            np.testing.assert_allclose(found[name], expected[name], atol=0.02, err_msg=name)


def test_packed_rows_are_those_of_the_preprocessing_in_memory(ours):
    given = rows()
    columns = {}
    for name, column in PROBLEM.columns().items():
        values = [row.get(name, []) for row in given]
        if column.max_values:
            columns[name] = values
        else:
            columns[name] = [v[0] if v else None for v in values]
    columns[FOLD] = [row[FOLD][0] for row in given]
    packed = Preprocessor(PROBLEM, null_values=("NA",)).fit(columns)
    order = np.argsort(packed["group"].numpy())
    found = packed_rows(ours[1])
    assert set(found) == set(packed)
    for name, value in found.items():
        # The statistics are the same bits. A graph divides by a constant in another way.
        atol = 5e-7 if name.startswith("numbers_") else 0
        np.testing.assert_allclose(value, packed[name].numpy()[order], rtol=0, atol=atol)


@pytest.mark.parametrize("shards", [1, 7])
def test_the_division_into_files_changes_no_bit(ours, tmp_path, shards):
    write_examples(str(tmp_path / "raw"), rows()[::-1], shards=shards)
    write_examples(str(tmp_path / "raw"), rows(100, seed=1), split="validation")
    graph, (packed,) = transform(PROBLEM, str(tmp_path / "raw"), str(tmp_path), null_values=["NA"])
    assets = os.path.join("transform_fn", "assets")
    names = os.listdir(os.path.join(ours[0], assets))
    folders = (os.path.join(ours[0], assets), os.path.join(graph, assets))
    assert filecmp.cmpfiles(*folders, names, shallow=False) == (names, [], [])
    for split in ("train", "validation"):
        assert_same(packed_rows(packed, split=split), packed_rows(ours[1], split=split))
    names = sorted(os.listdir(os.path.join(packed, "Split-train")))
    assert names == [f"transformed_examples-{i:05d}-of-{shards:05d}" for i in range(shards)]


@pytest.mark.slow
def test_several_processes_change_no_bit(examples, ours, tmp_path):
    arguments = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    _, (packed,) = transform(
        PROBLEM, examples, str(tmp_path), null_values=["NA"], beam_args=arguments
    )
    assert_same(packed_rows(packed), packed_rows(ours[1]))


def test_the_rows_of_several_artifacts_are_fitted_together_and_packed_apart(ours, tmp_path):
    given = rows()
    for name, part in (("one", given[:200]), ("two", given[200:])):
        write_examples(str(tmp_path / name), part)
    _, folders = transform(
        PROBLEM,
        [str(tmp_path / "one"), str(tmp_path / "two")],
        str(tmp_path),
        null_values=["NA"],
        splits=("train",),
    )
    parts = [packed_rows(folder) for folder in folders]
    assert [len(part["group"]) for part in parts] == [200, 400]
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(both["group"])
    assert_same({name: v[order] for name, v in both.items()}, packed_rows(ours[1]))


class TwoPasses(NumericalEncoding):
    """By the mean distance to the mean: a statistic of what another statistic gives."""

    def encode(self, name, values, present, analyzers):
        mean, _ = analyzers.moments(name, present)
        distances = tf.abs(tf.cast(present, tf.float64) - mean)
        scale, _ = analyzers.moments(f"{name}_distance", distances)
        return standardised(values, mean, scale)[:, tf.newaxis]


SMALL_PROBLEM = ProblemSpec(
    features=(numerical("x"),), tasks=(binary("y", label="y"),), request_id="request"
)


def test_a_statistic_of_another_statistic_is_fitted_in_a_second_pass(tmp_path):
    encoding = f"{TwoPasses.__module__}:TwoPasses"
    problem = ProblemSpec(
        features=(numerical("x", encoding=encoding),),
        tasks=(binary("y", label="y"),),
        request_id="request",
    )
    given = [{"x": [float(i)], "y": [1.0], "request": [str(i)]} for i in range(10)]
    write_examples(str(tmp_path / "raw"), given, shards=2)
    _, (packed,) = transform(problem, str(tmp_path / "raw"), str(tmp_path), splits=("train",))
    # The distances of 0 … 9 to 4.5 have the mean 2.5.
    numbers = np.sort(packed_rows(packed, problem)["numbers_context"].ravel())
    np.testing.assert_allclose(numbers, (np.arange(10) - 4.5) / 2.5, rtol=1e-6)


def test_values_of_another_type_are_refused_with_file_and_column(tmp_path):
    write_examples(str(tmp_path / "raw"), [{"x": [7], "y": [1.0], "request": ["r"]}])
    with pytest.raises(Exception, match="column 'x' has values of type int64, and float is decl"):
        transform(SMALL_PROBLEM, str(tmp_path / "raw"), str(tmp_path), splits=("train",))


def test_a_declared_column_that_the_schema_lacks_is_refused(tmp_path):
    write_examples(str(tmp_path / "raw"), [{"y": [1.0], "request": ["r"]}])
    spec = {"y": tf.io.VarLenFeature(tf.float32), "request": tf.io.VarLenFeature(tf.string)}
    with pytest.raises(DataError, match=r"columns \['x'\] are declared, but the schema"):
        transform(SMALL_PROBLEM, str(tmp_path / "raw"), str(tmp_path), splits=("train",), spec=spec)


def test_a_split_without_files_to_fit_on_is_refused(tmp_path):
    (tmp_path / "raw" / "Split-train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no rows to fit on in the splits \['train'\]"):
        transform(SMALL_PROBLEM, str(tmp_path / "raw"), str(tmp_path), splits=("train",))


def _has_ids(feature):
    return hasattr(feature, "encoder") and feature.encoder.has_ids


def _width(feature):
    if not hasattr(feature, "encoder"):
        return 1
    return 0 if feature.encoder.has_ids else feature.encoder.width
