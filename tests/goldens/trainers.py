"""How each trainer is recorded: the losses of its first steps and the norms of what it ends with.

Rates are small and optimizers smooth: Adam's first step is the gradient's sign, in which the last
digit of a gradient near zero may decide.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from .library import LABELS, WEIGHTS, PackedData, tfmtl
from .record import Record

IDS, ROWS, BATCH = 6, 48, 16
PROBLEM = tfmtl.ProblemSpec(
    features=(
        tfmtl.categorical("user", side="user", encoding="identity", size=IDS),
        tfmtl.categorical("ad", side="ad", encoding="identity", size=IDS),
        tfmtl.categorical("slot", encoding="identity", size=IDS),
    ),
    tasks=(
        tfmtl.binary("ctr", label="click"),
        tfmtl.binary("cvr", label="conversion", observed_if="click"),
        tfmtl.regression("quality", label="quality"),
    ),
)
LIKES = tfmtl.ProblemSpec(
    features=PROBLEM.features,
    tasks=(tfmtl.binary("ctr", label="click"), tfmtl.binary("like", label="like")),
)
SCENES = ("feed", "search")
SCENIC = tfmtl.ProblemSpec(
    features=(
        tfmtl.categorical("user", side="user", encoding="hash", size=2**20),
        tfmtl.categorical("ad", side="ad", encoding="hash", size=2**20),
        tfmtl.categorical("scene", encoding="hash", size=2**20),
        tfmtl.numerical("price", side="ad", encoding="log"),
    ),
    tasks=(*PROBLEM.tasks[:2], tfmtl.binary("ctcvr", label="conversion")),
    scene="scene",
)
TRAINING: dict[str, Any] = {
    "batch_size": BATCH,
    "learning_rate": 0.05,
    "optimizer": "sgd",
    "embedding_optimizer": "rowwise_adagrad",
    "monitor": "loss",
    "epochs": 2,
}


class EachStep(keras.callbacks.Callback):
    """Notes the running mean of the loss after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


def experiment(problem: Any, **settings: Any) -> Any:
    network = tfmtl.Model(
        backbone={"name": "mmoe", "num_experts": 2, "expert_units": (5,)}, dim=4, tower_units=(3,)
    )
    return tfmtl.ExperimentConfig(
        **{
            "name": "golden",
            "problem": problem,
            "split": tfmtl.by_row_number(),
            "model": network,
            "training": tfmtl.Training(**TRAINING),
            **settings,
        }
    )


def packed(record: Record, problem: Any) -> PackedData:
    """Rows whose labels are drawn by themselves."""
    return PackedData(
        _rows(record, problem, "train", ROWS),
        _rows(record, problem, "validation", BATCH),
        {feature.name: IDS + 2 for feature in problem.features},
    )


def _rows(record, problem, split, count):
    def ids(side):
        return record.given(
            f"{split}/{side}", lambda rng: rng.integers(2, IDS + 2, [count, 1])
        ).astype(np.int32)

    def labels(rng):
        drawn = [
            rng.random(count) < 0.5 if task.kind == "binary" else rng.normal(size=count)
            for task in problem.tasks
        ]
        return np.stack(drawn, axis=1).astype(np.float32)

    given = record.given(f"{split}/labels", labels)
    weights = np.ones_like(given)
    for place, task in enumerate(problem.tasks):
        if task.observed_if is not None:
            weights[:, place] = given[:, 0]
    arrays = {f"ids_{side}": ids(side) for side in ("user", "ad", "context")}
    return tfmtl.ArrayRows({**arrays, LABELS: given, WEIGHTS: weights})


def ordinary(record: Record) -> None:
    """`tfmtl.train`."""
    _trained(record, experiment(PROBLEM), PROBLEM)


def meta(record: Record) -> None:
    """`tfmtl.train` in two stages."""
    settings = tfmtl.Meta(
        tasks_per_step=2, task_rows=8, inner_rate=0.5, finetune_epochs=1, finetune_rate=0.05
    )
    _trained(record, experiment(PROBLEM, meta=settings), PROBLEM)


def _trained(record, config, problem):
    steps = EachStep()
    trained = tfmtl.train(config, packed(record, problem), verbose=0, callbacks=(steps,))
    record.forward("step_losses", np.float32(steps.losses))
    record.forward("validation_losses", [np.float32(e["val_loss"]) for e in trained.history])
    _norms(record, trained.model)


def _norms(record, model):
    record.forward("norms", [np.linalg.norm(v.numpy()) for v in model.trainable_variables])


def mtms_slot(record: Record) -> None:
    """`tfmtl.train_slot`, and a second slot that starts from the first."""
    mtms = tfmtl.MTMS(scenes=SCENES, update_units=(4,), fine_tune_units=(4,), fine_tune_epochs=2)
    config = experiment(SCENIC, mtms=mtms)
    preprocessor = None
    with tempfile.TemporaryDirectory() as folder:
        for slot in (1, 2):
            columns = _columns(record, slot)
            if preprocessor is None:
                preprocessor = tfmtl.Preprocessor(SCENIC)
                arrays = preprocessor.fit(columns)
            else:
                arrays = preprocessor(columns)
            rows = tfmtl.ArrayRows(arrays)
            here = Path(folder, str(slot))
            previous = str(Path(folder, "1")) if slot == 2 else None
            model = tfmtl.train_slot(
                config, rows, slot=slot, folder=str(here), previous=previous, verbose=0
            )
            for path in sorted(here.rglob("about.json")):
                part = "/".join(path.relative_to(here).parts[1:-1])
                losses = json.loads(path.read_text(encoding="utf-8"))["losses"]
                for name in losses[0]:
                    of_epochs = np.float32([epoch[name] for epoch in losses])
                    record.forward(f"{slot}/losses/{part}/{name}", of_epochs)
            batch = next(iter(rows.batches(BATCH)))
            for task, prediction in model(batch).items():
                record.forward(f"{slot}/predictions/{task}", prediction)


def _columns(record, slot):
    def given(key, draw):
        return record.given(f"{slot}/{key}", draw)

    def ids(key):
        return np.char.add(key[0], given(key, lambda rng: rng.integers(0, IDS, ROWS)).astype(str))

    click = given("click", lambda rng: rng.random(ROWS) < 0.5)
    bought = given("conversion", lambda rng: rng.random(ROWS) < 0.5) & click
    return {
        "user": ids("user"),
        "ad": ids("ad"),
        "scene": np.array(SCENES)[given("scene", lambda rng: rng.integers(0, 2, ROWS))],
        "price": given("price", lambda rng: rng.lognormal(size=ROWS)),
        "click": click.astype(np.float32),
        "conversion": bought.astype(np.float32),
    }


def search(record: Record) -> None:
    """`tfmtl.search`, one step an epoch, so that the history is that of the steps."""
    found = _searched(record)
    for name in ("loss", "ctr/loss@imp", "like/loss@imp", "val_loss"):
        record.forward(name, np.float32([epoch[name] for epoch in found.history]))
    choices = [list(epoch["selection"].values()) for epoch in found.history]
    record.forward("selection", np.float32(choices))


def random_search(record: Record) -> None:
    """`tfmtl.search` by networks drawn at random."""
    found = _searched(record, algorithm="random", trials=2)
    for name in sorted(name for name in found.history[0] if name.endswith("loss")):
        record.forward(name, np.float32([trial[name] for trial in found.history]))


def _searched(record, **settings):
    space = tfmtl.AutoMTL(
        num_experts=2,
        num_blocks=1,
        tower_units=(3,),
        epochs=4,
        warm_up_epochs=1,
        learning_rate=0.2,
        architecture_rate=0.05,
        embedding_optimizer="sgd",
        embedding_rate=0.05,
        interactions=(("skip", {"name": "skip"}), ("cross", {"name": "cross", "layers": 1})),
        poolings=(("sum", {"name": "sum"}), ("linear", {"name": "linear"})),
        hidden=(("skip", {"name": "skip"}), ("gate", {"name": "gate"})),
        **settings,
    )
    config = experiment(
        LIKES,
        model=tfmtl.Model(dim=4),
        training=tfmtl.Training(**{**TRAINING, "batch_size": ROWS}),
        search=space,
    )
    found = tfmtl.search(config, packed(record, LIKES), verbose=0)
    record.forward("architecture", np.frombuffer(found.architecture.line.encode(), np.uint8))
    return found


TRAINERS = {
    "meta": meta,
    "mtms_slot": mtms_slot,
    "random_search": random_search,
    "search": search,
    "train": ordinary,
}
