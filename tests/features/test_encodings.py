"""What holds of every registered encoding, and how one's own is declared."""

import inspect
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.features.test_encode import CLICK, fit
from tfmtl import registry
from tfmtl.declare.experiment import Model
from tfmtl.declare.features import FIRST, MISSING, PADDING, UNKNOWN
from tfmtl.declare.layout import fixed_table_rows, has_ids, layout_of, number_width
from tfmtl.declare.problem import ProblemSpec, categorical, numerical
from tfmtl.errors import SpecError
from tfmtl.features.encodings import CategoricalEncoding, NumericalEncoding
from tfmtl.features.raw import DTYPES
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export

SMALL = {
    "cyclic": {"period": 24},
    "hash": {"size": 7},
    "identity": {"size": 5},
    "log": {},
    "piecewise": {"bins": 4},
    "quantile": {"bins": 4},
    "standard": {},
    "vocabulary": {"size": 3, "min_count": 2},
}
"""Arguments of each encoding for these tests: a new encoding is a row here."""

each_encoding = pytest.mark.parametrize("name", SMALL)
VALUES = {
    "string": np.array(["a", "b", "", "b", "a", "c", "c", "d", "b", "c"]),
    "int64": np.array([0, 1, 3, 1, 0, 4, 4, 9, -3, 4]),
    "float32": np.float32([0, 1, np.nan, 1, 7, 30.5, np.inf, 23, 12, 12]),
}


def declared(name, **more):
    config = {"name": name, **SMALL.get(name, {})}
    kind = registry.get("encoding", name).feature_kind
    return {"categorical": categorical, "numerical": numerical}[kind]("x", encoding=config, **more)


def column(feature):
    return VALUES[feature.columns()[0].dtype]


def fitted(feature, values=None):
    return fit((feature,), {"x": column(feature) if values is None else values})


def test_every_registered_encoding_is_in_the_table_of_this_file():
    parts = {name: registry.get("encoding", name) for name in registry.names("encoding")}
    ours = {name for name, part in parts.items() if part.__module__.startswith("tfmtl.")}
    assert ours == set(SMALL), (
        f"encodings without a row: {sorted(ours - set(SMALL))}; rows without an encoding: "
        f"{sorted(set(SMALL) - ours)}. Add a row to SMALL in {__file__}, as "
        '"hash": {"size": 7}, with the arguments that its tests take.'
    )


@each_encoding
def test_an_encoding_keeps_every_argument_as_an_attribute_of_its_name(name):
    for argument, parameter in inspect.signature(registry.get("encoding", name)).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert argument in SMALL[name], f"give {argument!r} in the row of {name!r} in SMALL"
        assert getattr(declared(name).encoder, argument) == SMALL[name][argument]


@each_encoding
def test_a_feature_with_the_encoding_comes_back_from_json(name):
    spec = ProblemSpec(features=(declared(name),), tasks=(CLICK,))
    plain = json.loads(json.dumps(spec.to_json()))
    assert ProblemSpec.from_json(plain) == spec
    assert plain["features"][0]["encoding"] == {"name": name, **SMALL[name]}


@each_encoding
def test_what_comes_out_is_as_wide_as_the_declaration_says_and_within_its_table(name):
    feature = declared(name)
    preprocessor, packed = fitted(feature)
    layout = layout_of(preprocessor.problem)
    if not has_ids(feature):
        assert layout.id_width == 0 and list(preprocessor.table_rows()) == []
        assert packed["numbers_context"].shape == [10, number_width(feature)]
        assert np.isfinite(packed["numbers_context"]).all()
        return
    ids, rows = packed["ids_context"].numpy(), preprocessor.table_rows()["x"]
    assert layout.number_width == 0 and "numbers_context" not in packed
    assert ids.shape == (10, 1) and (ids >= 0).all() and (ids < rows).all()
    assert fixed_table_rows(feature) in (None, rows)
    assert (fixed_table_rows(feature) is None) == (name == "vocabulary")
    assert len(set(ids.ravel())) > 2


@each_encoding
def test_a_missing_value_is_its_own_id_or_zeros_and_spoils_no_statistics(name):
    feature = declared(name)
    values = column(feature)
    absent = {"string": "", "int64": np.iinfo(np.int64).min, "float32": np.nan}
    absent = absent[feature.columns()[0].dtype]
    with_gaps = np.concatenate([values, np.full(6, absent, values.dtype)])
    preprocessor, packed = fitted(feature)
    other, padded = fitted(feature, with_gaps)
    part = "ids_context" if has_ids(feature) else "numbers_context"
    np.testing.assert_array_equal(padded[part][:10], packed[part])
    np.testing.assert_array_equal(padded[part][10:], MISSING if has_ids(feature) else 0)
    np.testing.assert_array_equal(preprocessor({"x": with_gaps})[part], padded[part])


@each_encoding
def test_a_served_value_is_encoded_as_it_was_in_training_whatever_its_company(name):
    feature = declared(name)
    preprocessor, packed = fitted(feature)
    part = "ids_context" if has_ids(feature) else "numbers_context"
    for row in range(10):
        alone = preprocessor({"x": column(feature)[row : row + 1]})[part]
        np.testing.assert_allclose(alone[0], packed[part][row], rtol=1e-6, atol=1e-6)


@each_encoding
def test_a_list_has_an_encoding_per_value_or_the_declaration_refuses_it(name):
    if registry.get("encoding", name).feature_kind == "numerical":
        with pytest.raises(TypeError, match="max_values"):
            declared(name, max_values=2)
        return
    feature = declared(name, max_values=2)
    flat, _ = fitted(declared(name))
    values = column(feature)
    rows = tf.RaggedTensor.from_row_lengths(values[:3], [2, 0, 1])
    ids = fit((feature,), {"x": tf.RaggedTensor.from_row_lengths(values, [2] * 5)})[0](
        {"x": rows}
    )["ids_context"].numpy()  # fmt: skip
    alone = flat({"x": values[:3]})["ids_context"].numpy().ravel()
    alone = np.where(alone == MISSING, PADDING, alone)
    np.testing.assert_array_equal(ids, [alone[:2], [PADDING] * 2, [alone[2], PADDING]])


@each_encoding
def test_a_misspelt_argument_is_refused_when_the_feature_is_declared(name):
    kind = registry.get("encoding", name).feature_kind
    make = {"categorical": categorical, "numerical": numerical}[kind]
    with pytest.raises(SpecError, match=f"{kind} 'x': encoding '{name}' has no argument 'sise'"):
        make("x", encoding={"name": name, "sise": 1})


@each_encoding
def test_an_exported_model_answers_a_request_with_the_encoding(name, tmp_path):
    feature = declared(name)
    preprocessor, packed = fitted(feature)
    network = Model(backbone={"name": "shared_bottom", "bottom_units": (4,)}, dim=4)
    model = MultiTaskModel.build_from(preprocessor.problem, preprocessor.table_rows(), network)
    expected = model(packed)["ctr"].numpy()
    export(model, preprocessor, str(tmp_path / "1"))
    served = tf.saved_model.load(str(tmp_path / "1"))
    raw = {"x": tf.constant(column(feature), DTYPES[feature.columns()[0].dtype])}
    answers = served.signatures["predict"](**raw)
    np.testing.assert_allclose(np.ravel(answers["ctr"]), expected, rtol=1e-5)


# --- cyclic ----------------------------------------------------------------------------------


def test_the_last_hour_is_as_near_to_midnight_as_the_first():
    hours = np.float32([23, 0, 1, 24, -1, 6, 24e6 + 6])
    feature = numerical("x", encoding={"name": "cyclic", "period": 24})
    points = fitted(feature, hours)[1]["numbers_context"].numpy()
    angle = 2 * np.pi * np.array([23, 0, 1, 0, 23, 6, 6]) / 24
    np.testing.assert_allclose(points, np.stack([np.sin(angle), np.cos(angle)], 1), atol=1e-5)
    before, at, after = points[:3]
    assert np.linalg.norm(before - at) == pytest.approx(np.linalg.norm(after - at), rel=1e-4)


def test_cyclic_fits_nothing_and_a_missing_hour_is_the_centre_with_an_indicator():
    feature = numerical("x", encoding={"name": "cyclic", "period": 7}, indicator=True)
    preprocessor, packed = fitted(feature, np.float32([3.5, np.nan, np.inf]))
    np.testing.assert_allclose(
        packed["numbers_context"], [[0, -1, 0], [0, 0, 1], [0, 0, 1]], atol=1e-6
    )
    assert preprocessor._fitted.state == {}


# --- one's own -------------------------------------------------------------------------------


class Sign(NumericalEncoding):
    def encode(self, name, values, present, analyzers):
        return tf.sign(values)[:, tf.newaxis]


class Parity(NumericalEncoding):
    has_ids, ids = True, 2

    def encode(self, name, values, present, analyzers):
        return tf.cast(tf.math.floormod(values, 2.0), tf.int64)


class Length(CategoricalEncoding):
    """Text by its length, as a number."""

    has_ids = False
    dtypes = ("string",)

    def __init__(self, *, unit=1.0):
        self.unit = unit

    def encode(self, name, values, present, analyzers):
        return tf.cast(tf.strings.length(values), tf.float32)[:, tf.newaxis] / self.unit


def test_an_encoding_of_ones_own_needs_no_registration():
    features = (
        numerical("x", encoding=Sign),
        numerical("p", column="x", encoding=Parity, dim=2),
        categorical("t", encoding={"name": Length, "unit": 2.0}),
    )
    preprocessor, packed = fit(
        features, {"x": np.float32([-4, 3, np.nan]), "t": np.array(["", "abc", "ab"])}
    )
    np.testing.assert_allclose(packed["numbers_context"], [[-1, 0], [1, 1.5], [0, 1]])
    np.testing.assert_array_equal(packed["ids_context"], [[FIRST], [FIRST + 1], [MISSING]])
    assert preprocessor.table_rows() == {"p": 2 + FIRST}
    spec = preprocessor.problem
    assert ProblemSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


class Wide(NumericalEncoding):
    def encode(self, name, values, present, analyzers):
        return tf.stack([values, values], axis=1)


def test_numbers_that_are_wider_than_declared_are_refused():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"\[None, 1\]|\[\?,1\]"):
        fitted(numerical("x", encoding=Wide), np.float32([1, 2]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: categorical("x", encoding=Sign), "encodes no categorical feature"),
        (lambda: categorical("x", encoding=dict), "CategoricalEncoding"),
        (lambda: categorical("x", encoding=Length, max_values=3), "only the ids of a list"),
        (lambda: categorical("x", encoding=Length, dim=3), "dim= is the width of an id's"),
        (lambda: categorical("x", encoding=lambda x: x), "at the top of a module"),
        (lambda: numerical("x", encoding={"period": 3}), "needs a 'name'"),
    ],
)
def test_a_mistake_in_an_encoding_is_named_with_its_feature(make, words):
    with pytest.raises(SpecError, match=f" 'x': .*{words}"):
        make()


def test_unknown_values_of_a_vocabulary_and_of_integers_share_the_row_of_unknown_ids():
    for name, new in (("vocabulary", "zz"), ("identity", 99)):
        preprocessor, _ = fitted(declared(name))
        ids = preprocessor({"x": np.array([new])})["ids_context"].numpy()
        np.testing.assert_array_equal(ids, [[UNKNOWN]])
