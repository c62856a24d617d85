"""From a CSV file to a pushed model: our pipeline and one of TFX's own components, in turns.

Both read the same rows, encode them alike, train the same model with the same `run_fn`, judge it by
the same thresholds and push it. The stock side is CsvExampleGen, StatisticsGen, SchemaGen,
ExampleValidator, Transform (with analyzers per column), Trainer, Evaluator (TFMA) and Pusher. Each
run is a process of its own, under TFX's LocalDagRunner with Beam in memory. Times are of all
components, without the imports. `--seeds N` is the number of turns. The stock side takes about 15
minutes for a million rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.contract import Result, main, over_runs

if TYPE_CHECKING:
    from tfmtl.declare.experiment import ExperimentConfig

ROWS, QUICK_ROWS = 1_000_000, 20_000
# A quick run is mostly start-up, which both sides have.
RATIO, TRANSFORM_RATIO = 8.0, 15.0
QUICK_RATIO, QUICK_TRANSFORM_RATIO = 1.2, 2.0
TEXTS = {"user": 50_000, "ad": 5_000, "campaign": 2_000, "query": 20_000, "slot": 5, "device": 8}
INTEGERS = {"region": 40, "hour": 24, "weekday": 7, "advertiser": 500}
NUMBERS = tuple(f"x{i}" for i in range(10))
# Components that do the same on both sides.
STAGES = {
    "ArrowExampleGen": "ExampleGen",
    "CsvExampleGen": "ExampleGen",
    "RankingEvaluator": "Evaluator",
}
Seconds = dict[str, float]


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields rows per second of both sides, their ratios, and the seconds of each component."""
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    sides: dict[str, list[Seconds]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows", "rows.csv")
        path.parent.mkdir()
        write_rows(path, rows, seed=1)
        for turn in range(options.seeds):
            for side in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
                sides[side].append(_alone(side, path, Path(folder, f"{side}-{turn}")))
    yield from results(sides, rows, quick=options.quick)


def results(sides: Mapping[str, Sequence[Seconds]], rows: int, *, quick: bool) -> Iterator[Result]:
    """Results from the seconds of each component, `all` among them, per side and turn."""
    for side, turns in sides.items():
        per_second = [rows / turn["all"] for turn in turns]
        yield over_runs(f"pipeline/{side}", per_second, "rows/s", details={"rows": rows})
    targets = {
        "all": QUICK_RATIO if quick else RATIO,
        "Transform": QUICK_TRANSFORM_RATIO if quick else TRANSFORM_RATIO,
    }
    for stage in ("all", *(name for name in sides["ours"][0] if name not in ("all", "cpu"))):
        ours, stock = ([turn.get(stage, 0.0) for turn in turns] for turns in sides.values())
        if not sum(stock):
            continue
        yield over_runs(
            f"pipeline/ratio/{stage}",
            [theirs / mine for mine, theirs in zip(ours, stock, strict=True)],
            "x",
            at_least=targets.get(stage),
            note=f"ours {np.mean(ours):.1f} s, stock {np.mean(stock):.1f} s",
        )
    ours, stock = (np.mean([turn["cpu"] for turn in turns]) for turns in sides.values())
    yield Result("pipeline/ratio/cpu", stock / ours, "x", note=f"{ours:.1f} s, {stock:.1f} s")


def write_rows(path: Path, rows: int, seed: int) -> None:
    """Writes 24 columns: request, scene, 6 of text, 4 integers, 10 numbers and 2 labels."""
    random = np.random.default_rng(seed)
    table = {"request": np.char.add("r", (np.arange(rows) // 10).astype(str))}
    for name, size in TEXTS.items():
        table[name] = np.char.add(
            name[0], (size * random.random(rows) ** 3).astype(int).astype(str)
        )
    for name, size in INTEGERS.items():
        table[name] = random.integers(0, size, rows)
    table["scene"] = random.choice(["feed", "search"], rows)
    for name in NUMBERS:
        table[name] = random.normal(size=rows).round(4) + 1e-5
    click = random.random(rows) < 1 / (1 + np.exp(2 - table["x0"]))
    conversion = click & (random.random(rows) < 0.2)
    # pandas writes 0.0 and 1.0, which CsvExampleGen takes for numbers, and no quotes in the header,
    # which it would take for a part of the names.
    table["click"], table["conversion"] = click.astype(float), conversion.astype(float)
    pd.DataFrame(table).to_csv(path, index=False)


def experiment() -> "ExperimentConfig":
    """The settings of both sides."""
    from tfmtl.declare.experiment import Evaluation, ExperimentConfig, Model, Training
    from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
    from tfmtl.declare.split import by_hash

    return ExperimentConfig(
        name="both",
        problem=ProblemSpec(
            features=(
                *map(categorical, TEXTS),
                *(categorical(name, dtype="int64") for name in INTEGERS),
                *(numerical(name) for name in NUMBERS[:8]),
                numerical("x8", encoding="quantile"),
                numerical("x9", encoding="piecewise"),
            ),
            tasks=(
                binary("ctr", label="click"),
                binary("ctcvr", label="conversion"),
            ),
            scene="scene",
            request_id="request",
        ),
        split=by_hash("request", shares=(0.8, 0.1, 0.1)),
        model=Model(backbone={"name": "mmoe", "num_experts": 3, "expert_units": (32,)}, dim=8),
        training=Training(epochs=1, batch_size=4096),
        evaluation=Evaluation(bounds={"ctr/auc@imp": 0.55}),
    )


def _alone(side: str, path: Path, folder: Path) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.pipeline", "--side", side, str(path), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds: Seconds = json.loads(done.stdout.splitlines()[-1])
    print(f"{side}: {seconds}", file=sys.stderr)
    return seconds


def _run_side(side: str, path: Path, folder: Path) -> Seconds:
    # Imported here, outside of the measured time.
    from tfx import v1 as tfx
    from tfx.orchestration.portable import launcher

    from pipeline.pipeline import beam_arguments, create_pipeline

    seconds: Seconds = {}

    class Timed(launcher.Launcher):
        """Notes the seconds of each component."""

        def launch(self) -> Any:
            start = time.perf_counter()
            execution = super().launch()
            name = self._pipeline_node.node_info.id
            seconds[STAGES.get(name, name)] = time.perf_counter() - start
            return execution

    launcher.Launcher = Timed
    places = {
        "pipeline_root": str(folder / "artifacts"),
        "metadata_path": str(folder / "metadata.db"),
        "beam_args": beam_arguments(),
    }
    if side == "ours":
        pipeline = create_pipeline(
            experiment=experiment(),
            source=None,
            data_path=str(path),
            serving_dir=str(folder / "serving"),
            enable_cache=False,
            **places,
        )
    else:
        pipeline = _stock_pipeline(path.parent, folder, **places)
    wall, cpu = time.perf_counter(), time.process_time()
    tfx.orchestration.LocalDagRunner().run(pipeline)
    seconds["all"], seconds["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    if not list(folder.glob("serving/**/saved_model.pb")):
        raise RuntimeError(f"{side}: no model was pushed, so the sides did not do the same.")
    return seconds


def _stock_pipeline(data: Path, folder: Path, **places: Any) -> Any:
    from tfx import v1 as tfx

    from components import tfma_results
    from pipeline.pipeline import custom_config, pipeline_of

    settings = experiment()
    names = settings.split.names
    split = tfx.proto.SplitConfig(
        splits=[
            tfx.proto.SplitConfig.Split(name=name, hash_buckets=buckets)
            for name, buckets in zip(names, (8, 1, 1), strict=True)
        ]
    )
    examples = tfx.components.CsvExampleGen(
        input_base=str(data), output_config=tfx.proto.Output(split_config=split)
    )
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = tfx.components.SchemaGen(
        statistics=statistics.outputs["statistics"], infer_feature_shape=False
    )
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    config = custom_config(settings, places["pipeline_root"])
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="pipeline.transform_module.preprocessing_fn",
        splits_config=tfx.proto.SplitsConfig(analyze=[names[0]], transform=list(names)),
        disable_statistics=True,
        custom_config={**config, "null_values": json.dumps([""])},
    )
    trainer = tfx.components.Trainer(
        run_fn="pipeline.trainer_module.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=tfx.proto.TrainArgs(splits=[names[0]]),
        eval_args=tfx.proto.EvalArgs(splits=[names[1]]),
        custom_config=config,
    )
    evaluator = tfx.components.Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        eval_config=tfma_results.eval_config(settings.problem, settings.evaluation),
        example_splits=[names[2]],
    )
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(folder / "serving"))
        ),
    )
    nodes = [examples, statistics, schema, validator, transform, trainer, evaluator, pusher]
    return pipeline_of(nodes, settings, enable_cache=False, **places)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, metavar="N", help="replaces the number of rows")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side, rows_path, root = sys.argv[2:]
        print(json.dumps(_run_side(side, Path(rows_path), Path(root))))
    else:
        sys.exit(main(__doc__, run, arguments=_arguments))
