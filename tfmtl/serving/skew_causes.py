"""What a difference between a value in training and in serving usually comes from."""

import re
from typing import Any

from tfmtl.declare.features import Column

_MISSING = {"na", "n/a", "nan", "null", "none", "nil", "-", "?", "\\n", "<na>"}


def cause_of(column: Column, trained: Any, sent: Any) -> str:
    """The usual cause in words; empty where it is none of the known ones.

    Args:
        column: The raw column.
        trained: The value as training reads it.
        sent: The value as the request had it.
    """
    if column.max_values and isinstance(sent, str) and isinstance(trained, list):
        return "text with separators was sent where a list is meant; send the list"
    if isinstance(sent, list) and len(sent) == 1 and isinstance(trained, list):
        if len(trained) > 1 and isinstance(sent[0], str):
            return "text with separators was sent where a list is meant; send the list"
    text = "" if sent is None else str(sent)
    if trained is None:
        if text.lower() in _MISSING:
            return f"{text!r} means missing in the files; send an empty text, or null to the client"
        return ""
    if text and text.lower() == str(trained).lower():
        return "another spelling of a boolean" if text.lower() in ("true", "false") else "case"
    if column.dtype == "int64" and isinstance(sent, float):
        return "an integer column with gaps was read as floats"
    number = _number(text)
    if number is not None and number == _number(str(trained)):
        if "e" in text.lower():
            return "an integer column with gaps was read as floats, and its digits were lost"
        if text.endswith(".0"):
            return "an integer was read as a float; send it without .0"
        return "another spelling of a number"
    if text.strip() == str(trained):
        return "spaces around the text"
    return ""


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) else None
