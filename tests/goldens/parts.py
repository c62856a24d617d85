"""How one part of each kind is recorded, and at which small configuration."""

import inspect
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tests.doubles.small_parts import SMALL

from .library import LABELS, WEIGHTS, Preprocessor, registry, tfmtl
from .library import per_example as losses
from .record import Record

TASKS = ("ctr", "cvr", "ctcvr")
ROWS, FIELDS, DIM, SCENES = 8, 3, 4, 3
EXPERTS = {"expert_units": (6, 5), "gate_hidden": (4,), "batch_norm": True}
BRANCHES = {"num_specific": 2, "num_shared": 1, "expert_units": ((6, 5), (4,)), "batch_norm": True}
BOTTOM = {"bottom_units": (6, 5), "batch_norm": True}
MLP = {"name": "mlp", "units": 5, "batch_norm": True}

# A part may have several goldens, `name` and `name-variant`. A backbone without a row here is
# recorded at its small configuration, another part as it is by default.
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "backbone": {
        "aitm": BOTTOM,
        "automtl": {
            "experts": (
                {"pooling": {"name": "linear"}, "blocks": (MLP, {"name": "gate"})},
                {"pooling": {"name": "attentive"}, "blocks": ({"name": "convolution"},)},
                {"pooling": {"name": "sum"}, "blocks": ({"name": "skip"},)},
            ),
            "chosen": {"ctr": (0, 1, 2), "cvr": (0, 2), "ctcvr": (1,)},
            "width": 5,
        },
        "cgc": {**EXPERTS, "num_specific": 2, "num_shared": 1},
        "dnn": {"units": (6, 5), "batch_norm": True},
        "esmm": {"units": (6, 5), "batch_norm": True},
        "man": BRANCHES,
        "masknet": {"units": (6, 5)},
        "masknet-parallel": {"form": "parallel", "units": (6,), "num_blocks": 2, "block_units": 5},
        "mmoe": {**EXPERTS, "num_experts": 3},
        "omoe": {**EXPERTS, "num_experts": 3},
        "per_scene": {
            "num_scenes": SCENES,
            "bottom_units": (6,),
            "task_units": (4,),
            "batch_norm": True,
        },
        "ple": BRANCHES,
        "shared_bottom": BOTTOM,
        "single_task": BOTTOM,
        "star": {"num_scenes": SCENES, "units": (6, 4), "aux_units": (2,)},
        "two_tower": {"user_units": (6,), "ad_units": (5,), "width": 3, "batch_norm": True},
    },
    "interaction": {
        "cross-v1": {"version": "v1"},
        "cross-low_rank": {"rank": 2},
    },
    "pooling": {
        f"{name}-width": {"width": 5} for name in ("sum", "average", "attentive", "linear")
    },
    "sequence_pooling": {
        "din-paper": {"score": "none", "units": (5, 3)},
        "din-sigmoid": {"score": "sigmoid"},
        "target_attention-place": {"position": "place"},
    },
    "hidden": {"mlp": {"units": 5}, "mlp-plain": {"units": 5, "batch_norm": False}},
    "balancer": {
        "fixed": {"task_weights": {"cvr": 2.0}},
        "uncertainty-paper_eq3": {"form": "paper_eq3", "positive": True},
        "gradnorm": {"first_batches": 1},
        "mgda-plain": {"normalize": "none"},
        "mgda-ub": {"ub": True},
    },
    "term": {
        "pwiser-literal": {"gate": "literal", "margin_click": 0.1, "margin_no_click": 0.1},
        "pwiser-queue": {"pos_queue": 4, "heads": ("ctr", "ctcvr")},
    },
    "optimizer": {
        "rowwise_adam": {"learning_rate": 0.1},
        "rowwise_adam-clipped": {"learning_rate": 0.1, "global_clipnorm": 0.5},
        "rowwise_adagrad": {"learning_rate": 0.1},
        "rowwise_adagrad-clipped": {"learning_rate": 0.1, "clipnorm": 0.5},
    },
    "loss": {
        "focal-alpha": {"gamma": 0.5, "alpha": 0.25},
        "huber-delta": {"delta": 0.4},
        "pseudo_huber-delta": {"delta": 0.4},
        "log_cosh-delta": {"delta": 0.4},
        "cross_entropy-product": {"product": True},
        "focal-product": {"product": True},
        "focal-product_alpha": {"product": True, "gamma": 0.5, "alpha": 0.25},
        "label_smoothing-product": {"product": True, "smoothing": 0.3, "prior": 0.1},
        "poly1-product": {"product": True, "epsilon": -1.0},
    },
    "per_example": {"masked_mean-batch": {"reduction": "batch"}},
    "encoding": {
        "cyclic": {"period": 24},
        "hash": {"size": 11},
        "identity": {"size": 9},
        "piecewise": {"bins": 4},
        "quantile": {"bins": 5},
        "vocabulary": {"min_count": 2},
    },
}


def configured(kind: str, name: str) -> dict[str, Any]:
    """The configuration of a golden, `{"name": part, **arguments}`."""
    if name in CONFIGS[kind]:
        arguments = CONFIGS[kind][name]
    else:
        arguments = SMALL[kind][name] if kind == "backbone" else {}
    return {"name": name.partition("-")[0], **arguments}


def backbone(record: Record, config: dict[str, Any]) -> None:
    part = registry.build("backbone", config, TASKS)
    scene = {}
    if "num_scenes" in config:
        scene["scene"] = tf.constant(
            record.given("scene", lambda rng: rng.permutation(np.arange(ROWS) % SCENES))
        )
        scene["scene"] = tf.cast(scene["scene"], tf.int32)

    def fields(name: str, **_: Any) -> tf.Tensor:
        of_what = name.removeprefix("embedding").replace("_", "/", 1)
        return record.normal(f"fields{of_what}", ROWS, FIELDS, DIM)

    inputs = part.embeddings(fields)
    record.layer(part, inputs, lambda x, training: part(x, training=training, **scene))


def of_fields(kind: str):
    """Records an operation on fields."""

    def recorded(record: Record, config: dict[str, Any]) -> None:
        part = registry.build(kind, config)
        inputs = record.normal("fields", ROWS, FIELDS, DIM)
        record.layer(part, inputs, lambda x, training: part(x, training=training))

    return recorded


def hidden(record: Record, config: dict[str, Any]) -> None:
    part = registry.build("hidden", config)
    inputs = record.normal("hidden", ROWS, 6)
    record.layer(part, inputs, lambda x, training: part(x, training=training))


def sequence_pooling(record: Record, config: dict[str, Any]) -> None:
    """Records a pooling of events; the first row has none."""
    part = registry.build("sequence_pooling", config)
    length = 4
    lengths = record.given("lengths", lambda rng: rng.permutation(ROWS) % (length + 1))
    mask = np.arange(length) < lengths[:, None]
    ages = record.given("ages", lambda rng: np.sort(rng.integers(1, 30, [ROWS, length])))
    others = {
        "mask": tf.constant(mask),
        "ages": tf.constant(np.where(mask, ages, -1), tf.int32),
    }
    inputs = {
        "matched": record.normal("matched", ROWS, length, DIM),
        "others": record.normal("others", ROWS, length, 2),
        "target": record.normal("target", ROWS, DIM),
    }
    record.layer(part, inputs, lambda x, training: part({**x, **others}))


FUNNEL = tfmtl.ProblemSpec(
    features=(tfmtl.categorical("user"),),
    tasks=(
        tfmtl.binary("ctr", label="click"),
        tfmtl.binary("cvr", label="conversion", observed_if="click"),
        tfmtl.binary("ctcvr", label="conversion"),
    ),
)


def term(record: Record, config: dict[str, Any]) -> None:
    part = registry.build("term", config, ("ctr", "ctcvr"), FUNNEL)
    rows = 16
    for step in range(3):  # A term may remember earlier batches.
        clicks = record.given(f"{step}/clicks", lambda rng: rng.random(rows) < 0.6)
        bought = record.given(f"{step}/bought", lambda rng: rng.random(rows) < 0.5) & clicks
        weight = record.given(f"{step}/weights", lambda rng: rng.uniform(0.5, 2.0, rows))
        known = record.given(f"{step}/known", lambda rng: rng.random(rows) < 0.7)
        labels = np.stack([clicks, bought, bought], axis=1).astype(np.float32)
        weights = np.stack([weight, weight * clicks * known, weight * known], axis=1)
        predictions = {
            task: tf.constant(record.given(f"{step}/p_{task}", lambda rng: rng.random(rows)))
            for task in TASKS
        }
        with tf.GradientTape() as tape:
            tape.watch(list(predictions.values()))
            value = part(predictions, tf.constant(labels), tf.constant(weights), training=True)
        record.forward(str(step), value)
        for task, gradient in tape.gradient(value, predictions).items():
            record.gradient(f"{step}/p_{task}", gradient)


def optimizer(record: Record, config: dict[str, Any]) -> None:
    part = registry.build("optimizer", config)
    rows, width = 6, 3
    table = tf.Variable(record.normal("table", rows, width))
    dense = tf.Variable(record.normal("dense", width, 2))
    for step in range(4):
        ids = record.given(f"{step}/ids", lambda rng: rng.integers(0, rows, 5))
        values = record.normal(f"{step}/values", 5, width)
        slices = tf.IndexedSlices(values, tf.constant(ids), tf.constant([rows, width]))
        part.apply_gradients([(slices, table), (record.normal(f"{step}/dense", width, 2), dense)])
        record.forward(f"{step}/table", table)
        record.forward(f"{step}/dense", dense)


def loss(record: Record, config: dict[str, Any]) -> None:
    """Records a loss of logits, or with `product` of log-probabilities."""
    product = config.pop("product", False)
    part = registry.build("loss", config)
    _of_vectors(record, part.of_log_prob if product else part, {})


def per_example(record: Record, config: dict[str, Any]) -> None:
    arguments = {key: value for key, value in config.items() if key != "name"}
    _of_vectors(record, getattr(losses, config["name"]), arguments)


def encoding(record: Record, config: dict[str, Any]) -> None:
    """Records packed rows that are fitted on, and further ones that are only encoded."""
    kind = registry.get("encoding", config["name"]).feature_kind
    make = {"categorical": tfmtl.categorical, "numerical": tfmtl.numerical}[kind]
    feature = make("x", encoding=config)
    task = tfmtl.binary("ctr", label="click")
    preprocessor = Preprocessor(tfmtl.ProblemSpec(features=(feature,), tasks=(task,)))
    for key, rows in (("training", 40), ("served", 12)):
        if kind == "numerical":
            values = record.given(key, lambda rng, n=rows: _numbers(rng, n))
        else:
            values = record.given(key, lambda rng, n=rows: rng.integers(-1, 10, n))
            if feature.dtype == "string":
                values = np.where(values < 0, "", values.astype(str))
        columns = {"x": values}
        if key == "training":
            packed = preprocessor.fit({**columns, "click": np.zeros(rows)})
        else:
            packed = preprocessor(columns)
        for name in ("ids_context", "numbers_context"):
            if name in packed:
                record.forward(f"{key}/{name}", packed[name])


def _numbers(rng, rows):
    """Numbers of every size, with zeros and gaps among them."""
    drawn = rng.lognormal(1.0, 1.5, rows) * rng.choice([-1.0, 0.0, 1.0], rows, p=[0.2, 0.2, 0.6])
    return np.where(rng.random(rows) < 0.1, np.nan, drawn)


def _of_vectors(record: Record, function: Any, arguments: dict[str, Any]) -> None:
    rows = 24
    parameters = inspect.signature(function).parameters
    inputs = {}
    for name, parameter in parameters.items():
        if name == "mask" or name == "weights" or parameter.kind is parameter.KEYWORD_ONLY:
            continue
        for key in (name, f"{name}_2")[: 1 + (parameter.kind is parameter.VAR_POSITIONAL)]:
            inputs[key] = record.given(key, lambda rng, n=name: _column(rng, n, rows))
    tensors = {key: tf.constant(value) for key, value in inputs.items()}
    if "weights" in parameters:
        arguments["weights"] = tf.constant(
            record.given("weights", lambda rng: rng.uniform(0.0, 2.0, rows))
        )
    masks = {"whole": {}}
    if "mask" in parameters:
        mask = record.given("mask", lambda rng: rng.random(rows) < 0.7)
        masks["masked"] = {"mask": tf.constant(mask)}
    for key, more in masks.items():
        with tf.GradientTape() as tape:
            tape.watch(list(tensors.values()))
            value = function(*tensors.values(), **arguments, **more)
            total = tf.reduce_sum(value)
        record.forward(key, value)
        for name, gradient in tape.gradient(total, tensors).items():
            record.gradient(f"{key}/{name}", gradient)


def _column(rng, name, rows):
    """Labels of both classes and between, predictions from saturated to small."""
    if name == "labels":
        hard = (rng.random(rows) < 0.5).astype(np.float32)
        return np.where(rng.random(rows) < 0.7, hard, rng.random(rows))
    drawn = rng.normal(size=rows) * np.resize([0.05, 1.0, 8.0], rows)
    drawn[-2:] = 20.0
    if name == "log_prob":
        return -np.abs(drawn) - 1e-3
    return np.abs(drawn) if name == "losses" else drawn


class Noted(keras.optimizers.SGD):
    """Plain descent that keeps the gradients it is given."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.noted: list[tuple[Any, tf.Variable]] = []

    def apply_gradients(self, grads_and_vars, **kwargs):
        pairs = list(grads_and_vars)
        self.noted += pairs
        return super().apply_gradients(pairs, **kwargs)


IDS = 6
THREE = tfmtl.ProblemSpec(
    features=tuple(
        tfmtl.categorical(name, encoding="identity", size=IDS) for name in ("user", "ad", "slot")
    ),
    tasks=(
        tfmtl.binary("ctr", label="click"),
        tfmtl.binary("cvr", label="conversion", observed_if="click"),
        tfmtl.regression("quality", label="quality"),
    ),
)


def balancer(record: Record, config: dict[str, Any]) -> None:
    """A balancer by itself, and in five steps of a small model, two epochs behind it."""
    kinds = [task.kind for task in THREE.tasks]
    part = registry.build("balancer", config, THREE.task_names, kinds)
    record.weights(part.trainable_weights, "own")
    values = tf.constant(record.given("losses", lambda rng: rng.uniform(0.1, 2.0, 3)))
    for key, observed in (("whole", [True] * 3), ("part", [True, False, True])):
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = part(values, tf.constant(observed))
        found = tape.gradient(total, [values, *part.trainable_weights])
        record.forward(key, total)
        for place, gradient in enumerate(found):
            record.gradient(f"{key}/{place}", gradient)
    _steps(record, config)


def _steps(record, config):
    network = tfmtl.Model(
        backbone={"name": "shared_bottom", "bottom_units": (5,)},
        dim=3,
        tower_units=(3,),
        balancer=config,
    )
    rows = {name: IDS + 2 for name in ("user", "ad", "slot")}
    model = tfmtl.MultiTaskModel.build_from(THREE, rows, network)
    optimizers = Noted(), Noted()
    model.compile(optimizer=optimizers[0], embedding_optimizer=optimizers[1])
    for step in range(5):
        batch = _batch(record, step)
        if not step:
            model(batch)
            trained = model.trained_tables + model.dense_variables
            of_balancer = {v.ref() for v in model.balancer.weights}
            record.weights([v for v in trained if v.ref() not in of_balancer], "model")
        report = model.train_step(batch)
        record.forward(f"steps/{step}/losses", [report[name] for name in sorted(report)])
        record.forward(f"steps/{step}/weights_now", model.balancer.weights_now())
        places = {v.ref(): place for place, v in enumerate(trained)}
        for taken in optimizers:
            for gradient, variable in taken.noted:
                record.gradient(f"steps/{step}/{places[variable.ref()]:02d}", gradient)
            taken.noted = []
        if step % 2:
            model.balancer.end_epoch()


def _batch(record, step, rows=12):
    ids = record.given(f"{step}/ids", lambda rng: rng.integers(2, IDS + 2, [rows, 3]))
    labels = record.given(
        f"{step}/labels",
        lambda rng: np.column_stack([rng.random([rows, 2]) < 0.5, rng.normal(size=rows)]),
    )
    weights = record.given(
        f"{step}/label_weights",
        lambda rng: rng.uniform(0.5, 2.0, [rows, 3]) * (rng.random([rows, 3]) < 0.8),
    )
    if step == 3:  # No row of one task.
        weights = weights * np.float32([1, 0, 1])
    return {
        "ids_context": tf.cast(tf.constant(ids), tf.int32),
        LABELS: tf.constant(labels),
        WEIGHTS: tf.constant(weights),
    }
