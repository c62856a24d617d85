"""What the second stage of meta-training trains, and what a run of other settings is."""

import dataclasses

import pytest
import tf_keras as keras

from tests.doubles import worlds
from tfmtl.declare.experiment import Training
from tfmtl.declare.meta import Meta
from tfmtl.errors import SpecError
from tfmtl.meta.train import _second_settings, freeze_below
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.checkpoints import check_same, decisive
from tfmtl.training.epochs import compile_model

META = Meta(tasks_per_step=2, task_rows=16)


@pytest.fixture(scope="module")
def model():
    config = worlds.experiment(
        backbone={"name": "man", **worlds.SMALL["man"]}, balancer={"name": "uncertainty"}
    )
    _, data = worlds.packed(96, 16)
    keras.utils.set_random_seed(1)
    built = MultiTaskModel.build_from(worlds.PROBLEM, data.table_rows, config.model)
    built(next(iter(data.train.batches(8))))
    return built


def trained_below(model, scope):
    """What trains once all below a scope is frozen."""
    weights = {layer: layer.trainable for layer in model.submodules if hasattr(layer, "trainable")}
    freeze_below(model, scope)
    compile_model(model, Training())
    found = {v.ref() for v in model.dense_variables}
    for layer, trainable in sorted(weights.items(), key=lambda pair: not pair[1]):
        if isinstance(layer, keras.layers.Layer):
            layer.trainable = trainable
    return found


def refs(*layers):
    return {v.ref() for layer in layers for v in layer.trainable_variables}


def test_the_balancers_own_weights_train_in_the_second_stage_too(model):
    own = refs(model.balancer)
    assert own
    assert own <= trained_below(model, ("towers",))


def test_the_attention_trains_where_it_is_of_the_scope_and_only_there(model):
    attention = refs(*model.backbone.fine_tuned())
    towers = refs(model.heads)
    assert attention and not attention & towers
    both = trained_below(model, ("attention", "towers"))
    assert attention <= both and towers <= both
    assert not attention & trained_below(model, ("towers",))
    alone = trained_below(model, ("attention",))
    assert attention <= alone and not towers & alone


def test_the_second_stage_has_a_rate_epochs_patience_and_an_order_of_its_own():
    settings = Training(epochs=5, patience=4, learning_rate=0.5, seed=3)
    meta = dataclasses.replace(META, finetune_epochs=2, finetune_patience=7, finetune_rate=0.0625)
    second = _second_settings(settings, meta)
    assert (second.epochs, second.patience, second.learning_rate) == (2, 7, 0.0625)
    assert second.seed != settings.seed


def test_a_run_under_other_settings_of_meta_training_is_not_resumed():
    one = dataclasses.replace(worlds.experiment(), meta=META)
    other = dataclasses.replace(one, meta=dataclasses.replace(META, inner_rate=META.inner_rate * 2))
    check_same(decisive(one), decisive(one), "folder")
    with pytest.raises(SpecError, match=r"\['meta.inner_rate'\] changed since"):
        check_same(decisive(one), decisive(other), "folder")
    with pytest.raises(SpecError, match="meta"):
        check_same(decisive(one), decisive(dataclasses.replace(one, meta=None)), "folder")
