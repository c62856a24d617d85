"""What holds of every part under `mixed_bfloat16`: a new one is picked up from the registry."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.small_parts import SMALL
from tests.doubles.worlds import PROBLEM, experiment, packed
from tfmtl import registry
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel

KINDS = ("backbone", "interaction", "balancer", "term")
PARTS = [(kind, name) for kind in KINDS for name in registry.names(kind)]
_, DATA = packed()
BATCH = next(iter(DATA.train.batches(64)))


@pytest.fixture(autouse=True)
def mixed():
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy(before)


def model_of(kind, name):
    part = {"name": name, **SMALL.get(kind, {}).get(name, {})}
    fields = {"backbone": {"name": "mmoe", **SMALL["backbone"]["mmoe"]}}
    fields |= {"terms": (part,)} if kind == "term" else {kind: part}
    keras.utils.set_random_seed(3)
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, experiment(**fields).model)
    model(BATCH)
    model.compile()
    return model


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_step_trains_in_bfloat16_and_keeps_variables_and_probabilities_in_float32(kind, name):
    model = model_of(kind, name)
    before = [variable.numpy() for variable in model.dense_variables]
    report = model.train_step(BATCH)
    assert all(np.isfinite(float(loss)) for loss in report.values())
    moved = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, model.dense_variables, strict=True)
    ]
    assert any(moved)
    assert model.backbone.compute_dtype == "bfloat16"
    assert {v.dtype for v in model.trainable_variables} == {tf.float32}
    assert {p.dtype for p in model(BATCH).values()} == {tf.float32}


def test_a_policy_without_the_range_of_float32_is_refused_by_name():
    keras.mixed_precision.set_global_policy("mixed_float16")
    with pytest.raises(SpecError, match="mixed_float16.*mixed_bfloat16"):
        model_of("backbone", "mmoe")


def test_members_and_left_out_ids_follow_the_policy():
    backbone = {"name": "mmoe", **SMALL["backbone"]["mmoe"]}
    settings = experiment(backbone=backbone, members=3, id_dropout=0.2)
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    model(BATCH)
    model.compile()
    assert all(np.isfinite(float(loss)) for loss in model.train_step(BATCH).values())
    assert {p.dtype for p in model(BATCH).values()} == {tf.float32}
