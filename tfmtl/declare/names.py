"""Which names of columns and tasks can be served, and why others cannot.

A served model's inputs have the columns' own names, whatever characters they hold, and its outputs
have the tasks' names. What TensorFlow or Python cannot tell apart there is refused at declaration.
"""

import re
from collections.abc import Iterable

from tfmtl.errors import SpecError

TASK = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_column_names(columns: Iterable[str]) -> None:
    """Refuses columns that could not be inputs of one served model.

    Args:
        columns: The columns that features read.

    Raises:
        SpecError: A name is empty, holds a line break or is `self`; or two names differ in
            characters alone that TensorFlow replaces, as `user id` and `user_id` do.
    """
    known: dict[str, str] = {}
    for column in columns:
        if not column.strip() or not column.isprintable():
            raise SpecError(
                f"column {column!r}: a column's name has at least one visible character, and no "
                "line break or control character. Rename it in the data."
            )
        if column == "self":
            raise SpecError(
                "column 'self': Python calls a served model by its columns' names, and 'self' "
                "already means the model. Rename the column, as 'self_'."
            )
        # As TensorFlow does it with the names of a function's arguments.
        replaced = re.sub(r"\W", "_", column)
        replaced = replaced if replaced[0].isalpha() else f"arg_{replaced}"
        if replaced in known:
            raise SpecError(
                f"columns {known[replaced]!r} and {column!r}: TensorFlow reads both as "
                f"{replaced!r}, so a served model could not tell them apart. Rename one of them."
            )
        known[replaced] = column


def check_task_name(name: str) -> None:
    """Refuses a task whose name could not be an output of a served model.

    Raises:
        SpecError: It is no plain name.
    """
    if not isinstance(name, str) or not TASK.fullmatch(name):
        raise SpecError(
            f"task {name!r}: the name becomes a metric's and an output's name, so it needs to be "
            "letters, digits and underscores of ASCII, and to begin with a letter, as 'ctr_feed'."
        )
