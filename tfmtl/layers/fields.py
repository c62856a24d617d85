"""The fields that a backbone reads: their names, places and roles in the declaration."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfmtl.declare.features import SIDES
from tfmtl.errors import SpecError, did_you_mean

ROLES = (*SIDES, "user_id", "scene")
"""What a declaration says of fields: their side, and which read the user's or the scene's column.
"""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of the embeddings `[batch, fields, dim]`.

    Attributes:
        name: The feature's name; `numbers` for the joint field of all numbers, and `price_0`,
            `price_1` where a feature has several fields.
        sides: The sides of what it is made of; the joint field of numbers may have several.
        columns: The raw columns that it is made of.
    """

    name: str
    sides: tuple[str, ...]
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of an embedding, in the order of its second axis.

    A backbone is handed them before it is built, see `Backbone.describe`, so that it can ask for
    "the user's id" and not for "field 3".

    Attributes:
        each: The fields.
        user_id: The column that `ProblemSpec(user_id=…)` names, if any.
        scene: The column that `ProblemSpec(scene=…)` names, if any.

    Example:
        >>> fields = Fields(
        ...     (Field("user", ("user",), ("uid",)), Field("ad", ("ad",), ("ad",))), user_id="uid"
        ... )
        >>> fields.with_role("user_id"), fields.with_role("ad"), fields.places(["ad", "user"])
        (('user',), ('ad',), [1, 0])
    """

    each: tuple[Field, ...]
    user_id: str | None = None
    scene: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The fields' names, in order."""
        return tuple(field.name for field in self.each)

    def places(self, names: Sequence[str]) -> list[int]:
        """Where fields stand on the second axis.

        Args:
            names: Names of fields, in the order wanted.

        Raises:
            SpecError: There is no field of a name.
        """
        for name in names:
            if name not in self.names:
                raise SpecError(
                    f"no field {name!r}; fields are {list(self.names)}."
                    f"{did_you_mean(name, self.names)}"
                )
        return [self.names.index(name) for name in names]

    def with_role(self, role: str) -> tuple[str, ...]:
        """Names of the fields that the declaration gives a role, in order.

        Args:
            role: `user`, `ad` or `context` for fields of that side alone; `user_id` or `scene`
                for those that read the column which `ProblemSpec(user_id=…, scene=…)` names.

        Raises:
            SpecError: The role is unknown, or no field has it; the message says what to declare.
        """
        if role not in ROLES:
            raise SpecError(f"role {role!r} is none of {list(ROLES)}.{did_you_mean(role, ROLES)}")
        if role in SIDES:
            names = tuple(field.name for field in self.each if field.sides == (role,))
            declare = f"categorical('some_id', side={role!r})"
        else:
            column = getattr(self, role)
            names = tuple(f.name for f in self.each if column in f.columns) if column else ()
            example = column or role
            declare = f"ProblemSpec({role}={example!r}) and the feature categorical({example!r})"
        if not names:
            raise SpecError(
                f"no field has the role {role!r}; declare {declare}. Fields are {list(self.names)}."
            )
        return names

    def take(self, embeddings: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
        """Returns `[batch, len(names), dim]`: the named fields of `[batch, fields, dim]`.

        Raises:
            SpecError: There is no field of a name.
        """
        return tf.gather(embeddings, self.places(names), axis=1)
