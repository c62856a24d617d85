"""Fields by name and role."""

import numpy as np
import pytest
import tensorflow as tf

from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import SpecError
from tfmtl.layers.embedding import Embedding

PROBLEM = ProblemSpec(
    features=(
        categorical("user", column="uid", side="user"),
        categorical("wide", side="ad", dim=2),
        categorical("ad", side="ad"),
        categorical("scene"),
        numerical("age", side="user"),
        numerical("price", side="ad", indicator=True),
    ),
    tasks=(binary("ctr", label="click"),),
    user_id="uid",
    scene="scene",
)
ROWS = {"user": 4, "wide": 4, "ad": 4, "scene": 4}


def fields_of(**arguments):
    return Embedding(PROBLEM, ROWS, dim=4, **arguments).fields


def test_fields_stand_where_the_embedding_puts_them():
    # A table of another width comes first, and the joint field of the numbers last.
    assert fields_of().names == ("wide", "user", "ad", "scene", "numbers")
    assert fields_of().places(["scene", "wide"]) == [3, 0]
    apart = fields_of(numeric_mode="fieldwise").names
    assert apart == ("wide", "user", "ad", "scene", "age", "price_0", "price_1")


def test_roles_are_sides_and_the_declared_columns():
    fields = fields_of(numeric_mode="fieldwise")
    assert fields.with_role("user_id") == ("user",)
    assert fields.with_role("scene") == fields.with_role("context") == ("scene",)
    assert fields.with_role("user") == ("user", "age")
    assert fields.with_role("ad") == ("wide", "ad", "price_0", "price_1")


def test_the_joint_field_of_numbers_has_a_side_only_where_all_numbers_do():
    assert "numbers" not in fields_of().with_role("ad")
    assert fields_of(sides=("ad",)).with_role("ad") == ("wide", "ad", "numbers")


def test_named_fields_are_taken_in_the_order_asked_for():
    x = tf.reshape(tf.range(2 * 5 * 4), [2, 5, 4])
    taken = fields_of().take(x, ["ad", "wide"])
    np.testing.assert_array_equal(taken, np.stack([x[:, 2], x[:, 0]], axis=1))


def test_what_is_not_there_is_refused_with_what_would_be():
    with pytest.raises(SpecError, match="no field 'usr'.*Did you mean 'user'"):
        fields_of().places(["usr"])
    with pytest.raises(SpecError, match="role 'users' is none of.*Did you mean 'user'"):
        fields_of().with_role("users")
    with pytest.raises(SpecError, match=r"no field has the role 'ad'; declare categorical"):
        fields_of(sides=("user",)).with_role("ad")
