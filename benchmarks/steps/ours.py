"""tfmtl: the compiled step of `tfmtl.train`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tf_keras as keras

import tfmtl
from benchmarks.steps.worker import (
    EXPERTS,
    LEVELS,
    NUMBERS,
    SHARED,
    SPECIFIC,
    Case,
    Step,
    serve,
)
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.training.epochs import compile_model

RESERVED = 2
"""Rows of each table before the first value's: padding and unknown values."""


def model_of(case: Case) -> tfmtl.MultiTaskModel:
    """The compiled model."""
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    names = [f"category_{i}" for i in range(len(case.sizes))]
    problem = tfmtl.ProblemSpec(
        features=(
            *(
                tfmtl.categorical(name, encoding="identity", size=size)
                for name, size in zip(names, case.sizes, strict=True)
            ),
            *(tfmtl.numerical(f"number_{i}") for i in range(NUMBERS)),
        ),
        tasks=(tfmtl.binary("ctr", label="click"), tfmtl.binary("ctcvr", label="conversion")),
    )
    more = {"dropout": case.dropout, "batch_norm": case.batch_norm}
    own = {
        "shared_bottom": {"bottom_units": case.units},
        "mmoe": {"num_experts": EXPERTS, "expert_units": case.units},
        "ple": {
            "num_specific": SPECIFIC,
            "num_shared": SHARED,
            "expert_units": [case.units] * LEVELS,
        },
        "aitm": {"bottom_units": case.units, "chain": ("ctr", "ctcvr")},
    }[case.architecture]
    network = tfmtl.Model(
        backbone={"name": case.architecture, **own, **more},
        dim=case.dim,
        tower_units=case.tower_units,
        tower_dropout=case.dropout,
        tower_batch_norm=case.batch_norm,
        terms=(),
        l2=0.0,
    )
    rows = {name: size + RESERVED for name, size in zip(names, case.sizes, strict=True)}
    model = tfmtl.MultiTaskModel.build_from(problem, rows, network)
    compile_model(model, tfmtl.Training())
    return model


def make(case: Case) -> tuple[Step, dict[str, str]]:
    """The step and the versions."""
    model = model_of(case)
    batches = [
        {
            "ids_context": tf.constant(ids + RESERVED, tf.int32),
            "numbers_context": tf.constant(numbers),
            LABELS: tf.constant(labels),
            WEIGHTS: tf.ones_like(labels),
        }
        for ids, numbers, labels in case.batches()
    ]
    model(batches[0])
    step = tf.function(model.train_step)
    versions = {"tfmtl": tfmtl.__version__, "tensorflow": tf.__version__}
    return lambda turn: float(step(batches[turn])["loss"]), versions


if __name__ == "__main__":
    serve(make)
