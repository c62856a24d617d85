"""Ranking by cached ad vectors, compared with an MMoE that scores every pair of user and ad.

Both are trained on the same simulated early-stage log with the same features and tasks. The MMoE
has the experts of the `simulated_ads` configuration. Quality is measured on held-out days, on all
candidates whose value needs a click: normalised entropy against the true click-through rates, and
AUC on their few clicks.

The timed calls are those of the exported SavedModels on one request of 1,000 ads, in a process
with one thread. The models take turns of ten calls, so that other load affects both. The result is
the median:

- `rank`: from a user's vector and cached ad vectors to total values. `rank_with_ad_tower` also
  computes the ads' vectors, from raw columns;
- `mmoe_predict`: from raw columns of the pairs to predictions. `mmoe_packed` starts from packed
  features, so it times the network alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from benchmarks.contract import Result, main
from pipeline.config import load
from tfmtl.data.readers import open_table
from tfmtl.data.splits import assign
from tfmtl.data.table import read_table
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.problem import Column, ProblemSpec
from tfmtl.declare.split import SPLITS, Split
from tfmtl.features.prepare import Prepared, prepare
from tfmtl.metrics.tasks import auc, normalized_entropy
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.serving.cost import Cost, cost_of, request_macs
from tfmtl.serving.export import export
from tfmtl.serving.towers import traced

REQUESTS, QUICK_REQUESTS = 20_000, 3_000
ADS = 1_000
CALLS, TURNS = 100, 10
CLOCKS = (time.perf_counter, time.process_time)
RATIO, SIMILAR = 0.1, 1.02
# The MMoE comes first: the quality of the other model is compared with it.
MODELS = ("mmoe", "two_tower")


def run(options: argparse.Namespace) -> Iterator[Result]:
    """Yields the quality of both models, then their times and multiply-adds."""
    experiment = load("early_stage").experiment
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = _write_log(folder, QUICK_REQUESTS if options.quick else REQUESTS, options.seed)
        tables = read_table(log, experiment.problem, None, experiment.split, experiment.sampling)
        prepared = prepare(experiment.problem, tables)
        models = {}
        for backbone in MODELS:
            _say(f"training {backbone} on {prepared.data.train.count():,} rows")
            models[backbone] = train(_with(experiment, backbone), prepared.data, verbose=0).model
        yield from _quality(models, prepared, _true_rates(log, experiment.split))
        _export(models, prepared, tables["test"], experiment, folder)
        yield from _times(_measure_alone(folder))
    yield from _macs({name: cost_of(model) for name, model in models.items()})


def _write_log(folder: Path, requests: int, seed: int) -> str:
    # Imported here, because `--measure` does not need the simulator.
    from tfmtl.simulator import write_early_stage_logs

    _say(f"writing the log of {requests:,} requests")
    write_early_stage_logs(str(folder), requests=requests, replay_requests=1, seed=seed)
    return str(folder / "log")


def _with(experiment: ExperimentConfig, backbone: str) -> ExperimentConfig:
    if backbone == experiment.model.backbone["name"]:
        return experiment
    other = load("simulated_ads").experiment.model
    experiment = experiment.replace_path("model.backbone", other.backbone)
    return experiment.replace_path("model.tower_units", other.tower_units)


def _true_rates(log: str, split: Split) -> np.ndarray:
    """True click-through rates of the test rows, in the order of `read_table`."""
    assert split.column is not None
    columns = {
        split.column: Column(name=split.column, dtype="string"),
        "true_ctr": Column(name="true_ctr", dtype="float32"),
    }
    rates = []
    for batch in open_table(log, columns):
        # The split is by day, so it does not depend on where a batch begins.
        test = assign(split, batch, 0) == SPLITS.index("test")
        rates.append(batch.column(1).to_numpy()[test])
    return np.concatenate(rates)


def _quality(
    models: dict[str, MultiTaskModel], prepared: Prepared, truth: np.ndarray
) -> Iterator[Result]:
    entropies: dict[str, float] = {}
    for name, model in models.items():
        rows = model.predict_rows(prepared.test.batches(1 << 14))
        of_task = model.problem.task_names.index("ctr")
        asked = prepared.test.tensors["label_weights"].numpy()[:, of_task] > 0
        clicked = rows.observed[:, of_task]
        bound = SIMILAR * entropies["mmoe"] if "mmoe" in entropies else None
        entropies[name] = normalized_entropy(truth[asked], rows.predictions["ctr"][asked])
        yield Result(
            f"towers/{name}/ctr_ne",
            entropies[name],
            at_most=bound,
            note=f"against the truth; NE of the truth itself is "
            f"{normalized_entropy(truth[asked], truth[asked]):.4f}; {int(asked.sum()):,} rows",
        )
        yield Result(
            f"towers/{name}/ctr_auc",
            auc(rows.labels[clicked, of_task], rows.predictions["ctr"][clicked]),
            note=f"{int(rows.labels[clicked, of_task].sum()):,} clicks; of the truth "
            f"{auc(rows.labels[clicked, of_task], truth[clicked]):.4f}",
        )


class _Network(tf.Module):
    """A model on packed features, to time the network without the encoding of raw columns."""

    def __init__(self, model: MultiTaskModel):
        super().__init__()
        backbone_parts = model.backbone.served_parts(model.heads.served_tasks())
        self.parts = [model.embedding, *backbone_parts, *model.heads.served_parts()]


def _export(
    models: dict[str, MultiTaskModel],
    prepared: Prepared,
    rows: pa.Table,
    experiment: ExperimentConfig,
    folder: Path,
) -> None:
    for name, model in models.items():
        export(model, prepared.preprocessor, str(folder / name), value=experiment.value, warmup=())
    pairs = _one_request(rows, experiment.problem)
    features = {
        name: value
        for name, value in prepared.preprocessor(pairs).items()
        if name.startswith(("ids_", "numbers_"))
    }
    specs = {n: tf.TensorSpec([None, v.shape[1]], v.dtype, n) for n, v in features.items()}
    model = models["mmoe"]
    apply = traced(lambda **packed: model.predict_served(packed), **specs)
    tf.saved_model.save(_Network(model), str(folder / "mmoe_packed"), signatures=apply)
    np.savez(folder / "packed.npz", **{n: v.numpy() for n, v in features.items()})
    with pa.OSFile(str(folder / "pairs.arrow"), "wb") as sink:
        with pa.ipc.new_file(sink, pairs.schema) as writer:
            writer.write_table(pairs)


def _one_request(rows: pa.Table, problem: ProblemSpec) -> pa.Table:
    """`ADS` different ads of the log, for the user of the first row."""
    ads = rows.column("ad_id").to_numpy()
    _, first = np.unique(ads, return_index=True)
    if len(first) < ADS:
        raise ValueError(f"the log's test rows hold {len(first):,} ads; {ADS:,} are needed.")
    chosen = rows.take(pa.array(first[:ADS]))
    same = rows.take(pa.array(np.zeros(ADS, np.int64)))
    sides = {c.name: f.side for f in problem.features for c in f.columns()}
    columns = {n: (chosen if side == "ad" else same).column(n) for n, side in sides.items()}
    return pa.table(columns)


def _measure_alone(folder: Path) -> dict[str, list[list[float]]]:
    _say(f"timing {CALLS} calls of each")
    threads = {f"TF_NUM_{kind}_THREADS": "1" for kind in ("INTRAOP", "INTEROP")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.papers.early_stage.towers", "--measure", str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(folder: Path) -> dict[str, list[list[float]]]:
    """Seconds of every call by model, by the clock and of the processor."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    towers = tf.saved_model.load(str(folder / "two_tower")).signatures
    pairwise = tf.saved_model.load(str(folder / "mmoe")).signatures["predict"]
    network = tf.saved_model.load(str(folder / "mmoe_packed")).signatures["serving_default"]
    with pa.OSFile(str(folder / "pairs.arrow"), "rb") as source:
        pairs = _inputs(pa.ipc.open_file(source).read_all(), pairwise)
    features = {n: tf.constant(v) for n, v in np.load(folder / "packed.npz").items()}
    of_ads = {n: pairs[n] for n in towers["ad_tower"].structured_input_signature[1]}
    one_user = {n: pairs[n][:1] for n in towers["user_tower"].structured_input_signature[1]}
    user = towers["user_tower"](**one_user)["vector"]
    cached = towers["ad_tower"](**of_ads)["vector"]
    random = np.random.default_rng(0)
    auction = {
        "bid": tf.constant(random.lognormal(size=ADS), tf.float32),
        "objective": pairs["objective"],
        "rate": tf.constant(random.random(ADS), tf.float32),
    }

    def rank(ads):
        return towers["rank"](user=user, ads=ads, **auction)["total_value"].numpy()

    contenders = {
        "rank": lambda: rank(cached),
        "rank_with_ad_tower": lambda: rank(towers["ad_tower"](**of_ads)["vector"]),
        "user_tower": lambda: towers["user_tower"](**one_user)["vector"].numpy(),
        "mmoe_predict": lambda: pairwise(**pairs)["ctr"].numpy(),
        "mmoe_packed": lambda: network(**features)["ctr"].numpy(),
    }
    np.testing.assert_allclose(
        contenders["mmoe_predict"](), contenders["mmoe_packed"](), rtol=1e-4, atol=1e-6
    )
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in contenders}
    for turn in range(TURNS + 1):
        for name, contender in contenders.items():
            for _ in range(CALLS // TURNS):
                starts = [clock() for clock in CLOCKS]
                contender()
                took = [clock() - start for clock, start in zip(CLOCKS, starts, strict=True)]
                # The first turn is a warm-up.
                if turn:
                    for values, value in zip(seconds[name], took, strict=True):
                        values.append(value)
    return seconds


def _inputs(table: pa.Table, signature) -> dict[str, tf.Tensor]:
    """Columns as a client sends them, with lists padded with empty text."""
    inputs = {}
    for name, spec in signature.structured_input_signature[1].items():
        values = table.column(name).to_pylist()
        if spec.shape.rank == 2:
            values = tf.ragged.constant([row or [] for row in values], dtype=spec.dtype)
            inputs[name] = values.to_tensor("" if spec.dtype == tf.string else None)
        else:
            inputs[name] = tf.constant(values, spec.dtype)
    return inputs


def _times(seconds: dict[str, list[list[float]]]) -> Iterator[Result]:
    wall, cpu = ({name: float(np.median(v[i])) for name, v in seconds.items()} for i in (0, 1))
    for name, (passed, _) in seconds.items():
        ads = 1 if name == "user_tower" else ADS
        yield Result(
            f"towers/{name}",
            wall[name] * 1e6 / ads,
            "µs" if ads == 1 else "µs/ad",
            note=f"median of {len(passed)} calls; processor time {cpu[name] * 1e6 / ads:.3g}",
            details={"ads": ads, "calls": len(passed), "seconds": wall[name], "cpu": cpu[name]},
        )
    once = wall["rank"] + wall["user_tower"]
    yield Result(
        "towers/rank_over_mmoe_predict",
        wall["rank"] / wall["mmoe_predict"],
        "times",
        at_most=RATIO,
        note=f"{cpu['rank'] / cpu['mmoe_predict']:.4f} by processor time; "
        f"{once / wall['mmoe_predict']:.4f} with the user tower, once per request",
    )
    yield Result(
        "towers/rank_over_mmoe_packed",
        wall["rank"] / wall["mmoe_packed"],
        "times",
        note=f"{cpu['rank'] / cpu['mmoe_packed']:.4f} by processor time; the MMoE's network alone",
    )


def _macs(costs: dict[str, Cost]) -> Iterator[Result]:
    towers, pairwise = costs["two_tower"], costs["mmoe"]
    cached = request_macs([towers], ads=ADS, cached=1.0)
    every = request_macs([pairwise], ads=ADS)
    yield Result(
        "towers/two_tower/macs",
        cached,
        "MAC/request",
        note=f"user {towers.user:,}, ad {towers.ad:,} (cached), pair {towers.pair:,}; {ADS:,} ads",
    )
    yield Result("towers/mmoe/macs", every, "MAC/request", note=f"pair {pairwise.pair:,}")
    yield Result(
        "towers/macs_ratio",
        cached / every,
        "times",
        note=f"{request_macs([towers], ads=ADS) / every:.4f} without cached vectors",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only this benchmark has."""
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated log")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(_measure(Path(sys.argv[2]))))
    else:
        sys.exit(main(__doc__, run, arguments=add_arguments))
