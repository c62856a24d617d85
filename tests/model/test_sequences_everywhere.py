"""A history in every architecture: trained a step, exported, and served as it was trained."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.histories import CTR, problem, rows
from tests.doubles.small_parts import SMALL
from tests.doubles.worlds import towers_of
from tfmtl import registry
from tfmtl.declare.experiment import ExperimentConfig, Model, Training
from tfmtl.declare.problem import categorical
from tfmtl.declare.split import by_hash
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.run import train
from tfmtl.serving.cost import cost_of
from tfmtl.serving.export import export, to_examples
from tfmtl.training.epochs import compile_model

COLUMNS = rows(96)
WITHOUT_TARGET = {"two_tower", "per_scene"}


def prepared(declared):
    preprocessor = Preprocessor(declared)
    packed = ArrayRows(preprocessor.fit(COLUMNS))
    return preprocessor, PackedData(packed, packed, preprocessor.table_rows())


def experiment_of(declared, backbone="mmoe", **more):
    config = {"name": backbone, **SMALL["backbone"][backbone]}
    model = {"backbone": config, "dim": 8, "tower_units": towers_of(backbone, (4,)), **more}
    return ExperimentConfig(
        name="histories",
        problem=declared,
        split=by_hash("request"),
        model=Model(**model),
        training=Training(epochs=1, batch_size=48),
    )


def pooling_for(backbone):
    return "mean" if backbone in WITHOUT_TARGET else "din"


@pytest.mark.parametrize("backbone", sorted(SMALL["backbone"]))
def test_every_backbone_trains_a_step_with_a_history_and_its_tables_move(backbone):
    declared = problem(pooling_for(backbone))
    _, data = prepared(declared)
    settings = experiment_of(declared, backbone)
    model = MultiTaskModel.build_from(declared, data.table_rows, settings.model)
    compile_model(model, settings.training)
    batch = next(iter(data.train.batches(96)))
    model(batch)
    before = [t.numpy().copy() for t in model.tables]
    assert np.isfinite(float(model.train_step(batch)["loss"]))
    assert all((b != t.numpy()).any() for b, t in zip(before, model.tables, strict=True))


@pytest.mark.parametrize("interaction", sorted(SMALL["interaction"]))
def test_every_interaction_reads_the_fields_of_a_history(interaction):
    declared = problem()
    _, data = prepared(declared)
    part = {"name": interaction, **SMALL["interaction"][interaction]}
    settings = experiment_of(declared, "shared_bottom", interaction=part)
    model = MultiTaskModel.build_from(declared, data.table_rows, settings.model)
    compile_model(model, settings.training)
    assert np.isfinite(float(model.train_step(next(iter(data.train.batches(96))))["loss"]))


@pytest.mark.parametrize("pooling", registry.names("sequence_pooling"))
def test_an_exported_model_serves_every_pooling_as_it_was_trained(pooling, tmp_path):
    if ":" in pooling:
        pytest.skip("of another test")
    declared = problem({"name": pooling, **SMALL["sequence_pooling"].get(pooling, {})})
    preprocessor, data = prepared(declared)
    model = train(experiment_of(declared), data, verbose=0).model
    expected = model(next(iter(data.train.batches(96))))
    served = tf.saved_model.load(export(model, preprocessor, str(tmp_path / "model")))
    names = declared.feature_columns()
    examples = to_examples(declared, {n: COLUMNS[n] for n in names})
    by_example = served.signatures["serving_default"](tf.constant(examples))
    inputs = {}
    for name, column in names.items():
        values = COLUMNS[name]
        if column.whole:
            ragged = tf.ragged.constant(values, tf.string if column.dtype == "string" else tf.int64)
            # More padding than the longest history needs.
            absent = "" if column.dtype == "string" else int(tf.int64.min)
            inputs[name] = ragged.to_tensor(absent, shape=[None, 40])
        else:
            inputs[name] = tf.constant(values, column.dtype)
    by_column = served.signatures["predict"](**inputs)
    for task, values in expected.items():
        np.testing.assert_allclose(by_example[task], values, atol=1e-6)
        np.testing.assert_allclose(by_column[task], values, atol=1e-6)


def test_the_multiply_adds_of_a_request_grow_with_the_length_of_the_history():
    macs = {}
    for length in (5, 10, 20):
        declared = problem(max_length=length)
        _, data = prepared(declared)
        model = MultiTaskModel.build_from(declared, data.table_rows, experiment_of(declared).model)
        macs[length] = cost_of(model).pair
    assert 0 < macs[10] - macs[5] and macs[20] - macs[10] == 2 * (macs[10] - macs[5])


def test_serving_never_fails_on_lists_of_unequal_length(tmp_path):
    declared = problem()
    preprocessor, data = prepared(declared)
    model = train(experiment_of(declared), data, verbose=0).model
    served = tf.saved_model.load(export(model, preprocessor, str(tmp_path / "model")))
    names = declared.feature_columns()
    example = tf.train.Example.FromString(
        to_examples(declared, {n: COLUMNS[n][1:2] for n in names})[0]
    )
    del example.features.feature["clicked_actions"].int64_list.value[3:]
    del example.features.feature["clicked_times"].int64_list.value[5:]
    scores = served.signatures["serving_default"](tf.constant([example.SerializeToString()]))
    assert np.isfinite(scores["ctr"]).all()


def test_the_users_tower_needs_no_input_of_the_ad(tmp_path):
    declared = problem("mean")
    declared = dataclasses.replace(
        declared, features=(*declared.features, categorical("last_ad", of="ad", side="user"))
    )
    columns = {**COLUMNS, "last_ad": COLUMNS["ad"]}
    preprocessor = Preprocessor(declared)
    packed = ArrayRows(preprocessor.fit(columns))
    data = PackedData(packed, packed, preprocessor.table_rows())
    model = train(experiment_of(declared, "two_tower"), data, verbose=0).model
    served = tf.saved_model.load(export(model, preprocessor, str(tmp_path / "model")))
    user, ad = served.signatures["user_tower"], served.signatures["ad_tower"]
    names = set(user.structured_input_signature[1])
    assert {"user", "scene", "now", "clicked_ads", "clicked_times", "last_ad"} <= names
    assert not names & {"ad", "category", "price"}

    def inputs(signature):
        given = {}
        for name in signature.structured_input_signature[1]:
            column = declared.feature_columns()[name]
            values = columns[name][:10]
            if column.whole:
                absent = "" if column.dtype == "string" else int(tf.int64.min)
                kind = tf.string if column.dtype == "string" else tf.int64
                given[name] = tf.ragged.constant(values, kind).to_tensor(absent)
            else:
                given[name] = tf.constant(values, column.dtype)
        return given

    scores = served.signatures["rank"](
        user=user(**inputs(user))["vector"], ads=ad(**inputs(ad))["vector"]
    )
    expected = model({k: v[:10] for k, v in packed.tensors.items()})
    np.testing.assert_allclose(scores["ctr"], expected["ctr"], atol=1e-5)


def test_meta_training_hides_the_own_value_in_histories_and_whole_sequences():
    from tfmtl.declare.columns import FIRST, UNKNOWN
    from tfmtl.declare.layout import layout_of
    from tfmtl.declare.meta import Meta
    from tfmtl.meta.tasks import SUPPORT, tasks_of

    declared = problem()
    _, data = prepared(declared)
    (slots,) = layout_of(declared).sequences

    def of(hide):
        meta = Meta(hide=hide, tasks_per_step=1)
        tasks = tasks_of(declared, data.train, meta, batch_size=96, objectives=3)
        return next(iter(tasks.batches(0)))[SUPPORT]

    plain, hidden, whole = of(()), of(("ad",)), of(("clicked",))
    own = plain["ids_ad"].numpy()[..., :1]
    events = plain["ids_user"].numpy()[..., slots.columns(0)]
    same = (events == own) & (own >= FIRST)
    assert same.any() and (hidden["ids_ad"].numpy()[..., 0] == UNKNOWN).all()
    after = hidden["ids_user"].numpy()[..., slots.columns(0)]
    np.testing.assert_array_equal(after, np.where(same, UNKNOWN, events))
    all_unknown = whole["ids_user"].numpy()[..., slots.columns(0)]
    np.testing.assert_array_equal(all_unknown, np.where(events >= 0, UNKNOWN, -1))


def test_mtms_refuses_a_sequence_and_says_what_it_takes():
    from tfmtl.declare.mtms import MTMS

    declared = problem(encoding="hash", size=64)
    hashed = {
        name: categorical(name, side="ad", encoding="hash", size=64)
        for name in ("scene", "category")
    }
    features = tuple(hashed.get(f.name, f) for f in declared.features)
    declared = dataclasses.replace(declared, features=features)
    with pytest.raises(
        SpecError, match="mtms: feature 'clicked' shares a table .* or is a sequence"
    ):
        MTMS(scenes=("feed", "search")).check_problem(declared, 8)


def test_an_unknown_pooling_is_refused_before_data_are_read():
    with pytest.raises(
        SpecError, match=r"clicked.*unknown sequence_pooling 'dinn'.*Did you mean 'din'"
    ):
        experiment_of(problem("dinn", tasks=(CTR,)))
