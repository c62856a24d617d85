"""Our Evaluator and TFX's on the same model, rows, slices and thresholds, in one run.

Both executors run in this process. They read the same gzipped TFRecords and the same SavedModel
with three outputs. They compute AUC, log loss and calibration, overall and per scene and segment.
Ours also computes GAUC, NE, ECE and the plot. TFX's runs on Beam's DirectRunner, as in its local
runner. The metrics of both are compared too, because a fast wrong result would be worthless.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator.executor import Executor as StockExecutor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import proto_utils

from benchmarks.contract import Result, main
from components import tfma_results
from components.evaluator import Executor
from tfmtl.declare.experiment import Evaluation, ExperimentConfig
from tfmtl.declare.problem import ProblemSpec, binary, numerical
from tfmtl.declare.split import by_hash

ROWS, QUICK_ROWS = 40_000, 8_000
EXPERIMENT = ExperimentConfig(
    name="evaluate",
    problem=ProblemSpec(
        features=(numerical("price"), numerical("appeal")),
        tasks=(
            binary("ctr", label="click"),
            binary("cvr", label="conversion", observed_if="click"),
            binary("ctcvr", label="conversion"),
        ),
        scene="scene",
        request_id="request_id",
    ),
    split=by_hash("request_id"),
    evaluation=Evaluation(slices=("segment",), slice_bounds={"ctr/auc@imp": 0.6}),
)


# With more rows the ratio grows, because start-up matters less. The target is for few rows.
RATIO, DIFFERENCE = 5.0, 1e-3


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the ratio of rows per second, and the largest difference of the metrics."""
    comparison = compare(QUICK_ROWS if options.quick else ROWS)
    yield Result(
        name="evaluate/tfx_over_ours",
        value=comparison.ratio,
        unit="times",
        at_least=RATIO,
        note=f"{comparison.rows:,} rows: ours {comparison.rows / comparison.ours:,.0f} rows/s, "
        f"TFX's {comparison.rows / comparison.tfx:,.0f}",
    )
    yield Result(
        name="evaluate/largest_difference",
        value=comparison.difference,
        at_most=DIFFERENCE,
        note="TFX computes AUC at 10,000 thresholds, ours is exact",
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Seconds of both on `rows` rows, and the largest difference of their metrics."""

    rows: int
    ours: float
    tfx: float
    difference: float

    @property
    def ratio(self) -> float:
        """Rows per second of ours, divided by those of TFX's."""
        return self.tfx / self.ours


def compare(rows: int, *, seed: int = 1) -> Comparison:
    """Runs both evaluators once on `rows` seeded rows."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs = {"examples": [_examples(root, rows, seed)], "model": [_model(root)]}
        config = tfma_results.eval_config(EXPERIMENT.problem, EXPERIMENT.evaluation)
        ours, our_uri = _timed(
            Executor().Do,
            inputs,
            root / "ours",
            {"experiment": EXPERIMENT.to_json(), "example_splits": '["test"]'},
        )
        tfx, tfx_uri = _timed(
            StockExecutor().Do,
            inputs,
            root / "tfx",
            {
                "eval_config": proto_utils.proto_to_json(config),
                "example_splits": '["test"]',
                "module_path": None,
            },
        )
        return Comparison(rows, ours, tfx, _largest_difference(our_uri, tfx_uri))


class _Ranker(tf.Module):
    """A small network with fixed random weights and the signature `serving_default`."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.hidden = tf.Variable(rng.normal(size=(2, 64)).astype(np.float32))
        self.heads = tf.Variable(rng.normal(size=(64, 2)).astype(np.float32) / 8)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns probabilities `[batch]` per task."""
        spec = {name: tf.io.FixedLenFeature([], tf.float32) for name in ("price", "appeal")}
        raw = tf.io.parse_example(examples, spec)
        inputs = tf.stack([raw["price"], raw["appeal"]], axis=1)
        ctr, cvr = tf.unstack(tf.sigmoid(tf.tanh(inputs @ self.hidden) @ self.heads - 2.0), axis=1)
        return {"ctr": ctr, "cvr": cvr, "ctcvr": ctr * cvr}


def _model(root: Path) -> types.Artifact:
    artifact = _artifact(standard_artifacts.Model, root / "model")
    model = _Ranker()
    tf.saved_model.save(
        model, f"{artifact.uri}/Format-Serving", signatures={"serving_default": model.serve}
    )
    return artifact


def _examples(root: Path, rows: int, seed: int) -> types.Artifact:
    rng = np.random.default_rng(seed)
    price, appeal = rng.normal(size=(2, rows))
    click = rng.random(rows) < 1 / (1 + np.exp(2 - price))
    conversion = click & (rng.random(rows) < 1 / (1 + np.exp(2 - appeal)))
    scene = rng.choice([b"feed", b"search"], rows)
    segment = rng.choice([b"a", b"b", b"c"], rows)
    request = rng.integers(0, rows // 8, rows)
    artifact = _artifact(standard_artifacts.Examples, root / "examples")
    artifact.split_names = artifact_utils.encode_split_names(["test"])
    artifact.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    folder = Path(artifact.uri, "Split-test")
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "data-00000-of-00001.gz"), "GZIP") as records:
        for i in range(rows):
            example = tf.train.Example()
            feature = example.features.feature
            feature["price"].float_list.value.append(price[i])
            feature["appeal"].float_list.value.append(appeal[i])
            feature["click"].float_list.value.append(float(click[i]))
            feature["conversion"].float_list.value.append(float(conversion[i]))
            feature["scene"].bytes_list.value.append(scene[i])
            feature["segment"].bytes_list.value.append(segment[i])
            feature["request_id"].bytes_list.value.append(str(request[i]).encode())
            records.write(example.SerializeToString())
    return artifact


def _timed(
    run: Callable[..., None], inputs: dict, folder: Path, properties: dict
) -> tuple[float, str]:
    outputs = {
        "evaluation": [_artifact(standard_artifacts.ModelEvaluation, folder / "evaluation")],
        "blessing": [_artifact(standard_artifacts.ModelBlessing, folder / "blessing")],
    }
    start = time.perf_counter()
    run(inputs, outputs, properties)
    return time.perf_counter() - start, outputs["evaluation"][0].uri


def _artifact(kind: type[types.Artifact], folder: Path) -> types.Artifact:
    folder.mkdir(parents=True)
    artifact = kind()
    artifact.uri, artifact.id = str(folder), 1
    return artifact


def _largest_difference(ours: str, theirs: str) -> float:
    metrics = dict(tfma.load_eval_result(ours).slicing_metrics)
    return max(
        abs(value["doubleValue"] - metrics[key][output][""][name]["doubleValue"])
        for key, outputs in tfma.load_eval_result(theirs).slicing_metrics
        for output, by_sub_key in outputs.items()
        for name, value in by_sub_key[""].items()
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, run))
