"""DeepCTR: its models with its layers and Keras' Adam; the step as one compiled function.

The numbers are part of its networks' input as they are. The gates' layers are normalised as all
its layers are.
"""

import os

os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3")

from importlib.metadata import version

import tensorflow as tf
from deepctr.feature_column import DenseFeat, SparseFeat
from deepctr.models.multitask import MMOE, PLE, SharedBottom

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


def make(case: Case) -> tuple[Step, dict[str, str]]:
    """The step and the versions."""
    tf.keras.utils.set_random_seed(1)
    names = [f"category_{i}" for i in range(len(case.sizes))]
    features = [
        *(
            SparseFeat(name, vocabulary_size=size, embedding_dim=case.dim)
            for name, size in zip(names, case.sizes, strict=True)
        ),
        DenseFeat("numbers", NUMBERS),
    ]
    shared = {
        "tower_dnn_hidden_units": case.tower_units,
        "l2_reg_embedding": 0.0,
        "dnn_dropout": case.dropout,
        "dnn_use_bn": case.batch_norm,
    }
    expert_units = {"expert_dnn_hidden_units": case.units}
    if case.architecture == "shared_bottom":
        model = SharedBottom(features, bottom_dnn_hidden_units=case.units, **shared)
    elif case.architecture == "mmoe":
        model = MMOE(features, num_experts=EXPERTS, **expert_units, **shared)
    else:
        model = PLE(
            features,
            shared_expert_num=SHARED,
            specific_expert_num=SPECIFIC,
            num_levels=LEVELS,
            **expert_units,
            **shared,
        )
    model.compile(tf.keras.optimizers.Adam(1e-3), ["binary_crossentropy"] * 2)
    batches = [
        (
            {
                **{name: tf.constant(ids[:, i : i + 1]) for i, name in enumerate(names)},
                "numbers": tf.constant(numbers),
            },
            [tf.constant(labels[:, k : k + 1]) for k in range(2)],
        )
        for ids, numbers, labels in case.batches()
    ]
    train_step = tf.function(model.train_step)
    packages = ("deepctr", "tensorflow", "tf_keras")
    versions = {package: version(package) for package in packages}
    return lambda turn: float(train_step(batches[turn])["loss"]), versions


if __name__ == "__main__":
    serve(make)
