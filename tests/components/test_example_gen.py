import glob
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from tfx.orchestration import data_types
from tfx.types import artifact_utils, standard_artifacts

from components.example_gen import ArrowExampleGen, ArrowExampleGenExecutor, example_gen
from components.example_shards import ShardWriter
from tfmtl.data.readers import Source
from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Training
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.declare.split import by_hash
from tfmtl.errors import DataError

PROBLEM = ProblemSpec(
    features=(
        categorical("ad"),
        numerical("price"),
        categorical("code", encoding="identity", size=9),
        categorical("tags", max_values=3),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
    ),
    request_id="request",
    drop_if=("click", "conversion"),
)
EXPERIMENT = ExperimentConfig(
    name="t",
    problem=PROBLEM,
    split=by_hash("request", shares=(0.6, 0.2, 0.2)),
    evaluation=Evaluation(slices=("segment",)),
)
ROWS = 600
HEADER = "request,ad,price,code,tags,click,conversion,segment,unused"


def rows(seed=0):
    random = np.random.default_rng(seed)
    lines = []
    for i in range(ROWS):
        click = int(random.random() < 0.5)
        conversion = int(random.random() < 0.4) * click
        price = "" if i % 5 == 0 else f"{random.random():.3f}"
        tags = "|".join(f"t{t}" for t in range(i % 4))
        lines.append(
            f"r{i // 3},a{random.integers(9)},{price},{i % 9},{tags},{click},{conversion},"
            f"s{i % 2},x"
        )
    return lines


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def drive(component):
    """Execution properties as TFX's own driver resolves them."""
    driver = component.DRIVER_CLASS(None)
    info = data_types.PipelineInfo("p", "root")
    properties = dict(component.spec.exec_properties)
    return driver.resolve_exec_properties(
        properties, info, data_types.ComponentInfo("t", "i", info)
    )


def run(component, folder):
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    os.makedirs(folder)
    ArrowExampleGenExecutor().Do({}, {"examples": [artifact]}, drive(component))
    return artifact


def examples(folder, split):
    files = sorted(glob.glob(os.path.join(folder, f"Split-{split}", "*")))
    records = tf.data.TFRecordDataset(files)
    return [tf.train.Example.FromString(r.numpy()) for r in records]


def values(example, name):
    feature = example.features.feature[name]
    kind = feature.WhichOneof("kind")
    return [] if kind is None else list(getattr(feature, kind).value)


def test_every_row_lands_in_one_split_with_its_values(tmp_path):
    lines = rows()
    artifact = run(example_gen(str(write(tmp_path / "t.csv", lines)), EXPERIMENT), tmp_path / "o")
    assert artifact_utils.decode_split_names(artifact.split_names) == [
        "train",
        "validation",
        "test",
    ]
    found = {}
    for split in ("train", "validation", "test"):
        for example in examples(artifact.uri, split):
            text = {
                n: [v.decode() for v in values(example, n)]
                for n in ("request", "ad", "tags", "segment")
            }
            line = (
                text["request"][0],
                text["ad"][0],
                "".join(f"{v:.3f}" for v in values(example, "price")),
                values(example, "code")[0],
                "|".join(text["tags"]),
                values(example, "click")[0],
                values(example, "conversion")[0],
                text["segment"][0],
            )
            found.setdefault(
                ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in line), []
            ).append((split, values(example, "_fold")[0]))
            assert "unused" not in example.features.feature
    assert sum(map(len, found.values())) == ROWS
    assert set(found) == {line.removesuffix(",x") for line in lines}
    by_request = {}
    for line, places in found.items():
        by_request.setdefault(line.split(",")[0], set()).update(places)
    # One split and one fold a request; no fold outside train.
    assert all(len(places) == 1 for places in by_request.values())
    for ((split, fold),) in by_request.values():
        assert (fold >= 0) == (split == "train")


def test_the_same_rows_make_the_same_records_in_the_same_order(tmp_path):
    path = str(write(tmp_path / "t.csv", rows()))
    first, second = (run(example_gen(path, EXPERIMENT), tmp_path / n).uri for n in "ab")
    assert examples(first, "train") == examples(second, "train")


def test_parsed_examples_say_which_values_are_missing(tmp_path):
    artifact = run(example_gen(str(write(tmp_path / "t.csv", rows())), EXPERIMENT), tmp_path / "o")
    records = [e.SerializeToString() for e in examples(artifact.uri, "train")]
    parsed = tf.io.parse_example(
        records,
        {
            "price": tf.io.FixedLenFeature([], tf.float32, default_value=float("nan")),
            "tags": tf.io.VarLenFeature(tf.string),
        },
    )
    np.testing.assert_allclose(np.isnan(parsed["price"]).mean(), 0.2, atol=0.03)
    assert parsed["tags"].dense_shape[1] == 3


def test_dropped_rows_are_not_written_and_the_report_says_so(tmp_path):
    lines = rows()
    lines[5] = "r1,a1,1,1,t,0,1,s1,x"
    artifact = run(example_gen(str(write(tmp_path / "t.csv", lines)), EXPERIMENT), tmp_path / "o")
    with open(os.path.join(artifact.uri, "data_report.json")) as file:
        report = json.load(file)
    assert report["dropped"] == 1 and sum(report["rows"].values()) == ROWS - 1
    for split, count in report["rows"].items():
        assert len(examples(artifact.uri, split)) == count


def test_bad_data_end_in_a_data_error_and_leave_nothing_behind(tmp_path):
    lines = [line.replace(",1,1,s", ",1,0,s") for line in rows()]
    component = example_gen(str(write(tmp_path / "t.csv", lines)), EXPERIMENT)
    with pytest.raises(DataError, match="task 'cvr' has no positives"):
        run(component, tmp_path / "o")
    assert os.listdir(tmp_path / "o") == []
    write(tmp_path / "t.csv", ["r1,a,x,1,t,0,0,s,x"])
    with pytest.raises(DataError, match="line 2: 'x'"):
        run(component, tmp_path / "p")
    assert os.listdir(tmp_path / "p") == []


def test_a_folder_reads_like_its_files_and_a_readme_is_no_data(tmp_path):
    lines = rows()
    whole = run(example_gen(str(write(tmp_path / "t.csv", lines)), EXPERIMENT), tmp_path / "o")
    write(tmp_path / "d" / "1.csv", lines[:200])
    write(tmp_path / "d" / "2.csv", lines[200:])
    (tmp_path / "d" / "README.md").write_text("About these files.")
    parts = run(example_gen(str(tmp_path / "d"), EXPERIMENT), tmp_path / "p")
    for split in ("train", "validation", "test"):
        same = [
            {e.SerializeToString(deterministic=True) for e in examples(a.uri, split)}
            for a in (whole, parts)
        ]
        assert same[0] == same[1]


def test_a_file_name_with_brackets_is_that_file(tmp_path):
    write(tmp_path / "t1.csv", ["nothing"])
    path = write(tmp_path / "t[1].csv", rows())
    artifact = run(example_gen(str(path), EXPERIMENT), tmp_path / "o")
    assert examples(artifact.uri, "test")


def test_the_latest_span_is_read(tmp_path):
    write(tmp_path / "in" / "span-1" / "t.csv", ["nothing"])
    write(tmp_path / "in" / "span-2" / "t.csv", rows())
    component = example_gen(str(tmp_path / "in" / "span-{SPAN}" / "*"), EXPERIMENT)
    assert drive(component)["span"] == 2
    artifact = run(component, tmp_path / "o")
    assert sum(len(examples(artifact.uri, s)) for s in ("train", "validation", "test")) == ROWS


def test_a_missing_file_is_refused_when_the_pipeline_is_defined(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        example_gen(str(tmp_path / "no.csv"), EXPERIMENT)


def test_only_what_decides_the_rows_makes_the_component_run_again(tmp_path):
    path = str(write(tmp_path / "t.csv", rows()))

    def properties(experiment, source=None):
        return drive(example_gen(path, experiment, source))

    other = {f: getattr(EXPERIMENT, f) for f in ("name", "problem", "evaluation")}
    same = ExperimentConfig(split=EXPERIMENT.split, training=Training(epochs=99), **other)
    assert properties(same) == properties(EXPERIMENT)
    split = ExperimentConfig(split=by_hash("request", salt="b"), **other)
    assert properties(split) != properties(EXPERIMENT)
    assert properties(EXPERIMENT, Source(list_separator=";")) != properties(EXPERIMENT)
    before = properties(EXPERIMENT)
    write(tmp_path / "t.csv", rows(1)[:-1])
    assert properties(EXPERIMENT) != before


def test_other_content_of_the_same_size_and_time_makes_the_component_run_again(tmp_path):
    path = write(tmp_path / "t.csv", rows())
    stat = path.stat()
    before = drive(example_gen(str(path), EXPERIMENT))
    text = path.read_text()
    path.write_text(text[:-2] + ("1" if text[-2] == "0" else "0") + text[-1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    assert drive(example_gen(str(path), EXPERIMENT)) != before
    path.write_text(text)
    assert (
        drive(example_gen(str(path), EXPERIMENT))["input_fingerprint"].splitlines()[1]
        == (before["input_fingerprint"].splitlines()[1])
    )


@pytest.mark.parametrize("name", ["d[1]/t.csv", "x[0]/", "a*b/t.csv", "d/sub/t.csv", "d/"])
def test_files_are_read_whatever_their_folders_are_called(tmp_path, name):
    folder = tmp_path / name if name.endswith("/") else (tmp_path / name).parent
    folder.mkdir(parents=True)
    lines = rows()
    write(folder / "t.csv", lines)
    (folder / "sub").mkdir()
    write(folder / "sub" / "u.csv", lines)
    component = example_gen(str(tmp_path / name), EXPERIMENT)
    assert "content:" in drive(component)["input_fingerprint"]
    artifact = run(component, tmp_path / "o")
    found = sum(len(examples(artifact.uri, s)) for s in ("train", "validation", "test"))
    assert found == (2 * ROWS if name.endswith("/") else ROWS)


def test_a_file_whose_name_holds_a_placeholder_is_refused_with_a_remedy(tmp_path):
    path = write(tmp_path / "a{SPAN}.csv", rows())
    with pytest.raises(DataError, match="holds a placeholder of TFX.* another name"):
        example_gen(str(path), EXPERIMENT)


def test_shards_are_bounded_numbered_and_even(tmp_path):
    writer = ShardWriter(str(tmp_path), shard_bytes=1000)
    for start in range(0, 100, 10):
        writer.write([b"%05d" % i * 10 for i in range(start, start + 10)])
    writer.close()
    names = sorted(os.listdir(tmp_path))
    assert names == [f"data_tfrecord-{i:05d}-of-00006" for i in range(6)]
    records = [[r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / n))] for n in names]
    assert [len(r) for r in records] == [20, 20, 20, 20, 10, 10]
    assert sorted(sum(records, [])) == [b"%05d" % i * 10 for i in range(100)]


@pytest.mark.slow
def test_tfxs_components_read_what_it_writes(tmp_path):
    from tfx import v1 as tfx
    from tfx.components.util import tfxio_utils
    from tfx_bsl.tfxio import dataset_options

    component = example_gen(str(write(tmp_path / "t.csv", rows())), EXPERIMENT)
    assert isinstance(component, ArrowExampleGen)
    statistics = tfx.components.StatisticsGen(examples=component.outputs["examples"])
    schema = tfx.components.SchemaGen(
        statistics=statistics.outputs["statistics"], infer_feature_shape=False
    )
    transform = tfx.components.Transform(
        examples=component.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn=f"{__name__}.double_price",
        splits_config=tfx.proto.SplitsConfig(
            analyze=["train"], transform=["train", "validation", "test"]
        ),
    )
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="t",
            pipeline_root=str(tmp_path / "root"),
            components=[component, statistics, schema, transform],
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(tmp_path / "m.db")
            ),
            beam_pipeline_args=["--direct_running_mode=in_memory"],
        )
    )
    (uri,) = glob.glob(str(tmp_path / "root" / "ArrowExampleGen" / "examples" / "*"))
    (transformed,) = glob.glob(
        str(tmp_path / "root" / "Transform" / "transformed_examples" / "*" / "Split-train" / "*")
    )
    written = [
        tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(transformed, "GZIP")
    ]
    raw = examples(uri, "train")
    assert len(written) == len(raw)
    doubled = sorted(v for e in written for v in values(e, "double"))
    np.testing.assert_allclose(doubled, sorted(2 * v for e in raw for v in values(e, "price")))
    # The Trainer's data accessor reads through TFXIO.
    artifact = standard_artifacts.Examples()
    artifact.uri = uri
    artifact.split_names = artifact_utils.encode_split_names(["train", "validation", "test"])
    make, _ = tfxio_utils.get_tf_dataset_factory_from_artifact([artifact], ["test"]), None
    (schema_path,) = glob.glob(str(tmp_path / "root" / "SchemaGen" / "schema" / "*" / "*"))
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    with open(schema_path) as file:
        parsed = text_format.Parse(file.read(), schema_pb2.Schema())
    files = glob.glob(os.path.join(uri, "Split-train", "*"))
    batches = make(files, dataset_options.TensorFlowDatasetOptions(64, num_epochs=1), parsed)
    assert sum(int(batch["click"].dense_shape[0]) for batch in batches) == len(raw)


def double_price(inputs):
    return {"double": tf.sparse.map_values(tf.multiply, inputs["price"], 2.0)}
