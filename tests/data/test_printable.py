"""Values from data are shown as values: none acts on the terminal or looks like a line of ours."""

import logging

import pytest

from pipeline import console
from tfmtl.data.readers import open_table
from tfmtl.declare.features import Column
from tfmtl.errors import DataError
from tfmtl.metrics.sliced import SlicedMetrics, format_table, slice_name
from tfmtl.text import aligned, printable

HOSTILE = "search\nPushed to   /serving\r\x1b[2K\x1b]0;owned\x07\x9b31m\u202e\u2028"


def is_harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


def test_no_character_that_acts_on_a_terminal_is_left():
    shown = printable("".join(map(chr, range(0x3000))))
    assert shown.isprintable()
    assert printable(HOSTILE).startswith(r"search\nPushed to   /serving\r\x1b[2K")


def test_letters_of_any_language_and_line_breaks_of_our_own_stay():
    assert printable("搜索 é ñ 😀 \\") == "搜索 é ñ 😀 \\"
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert printable(7) == "7"


def test_a_slice_value_cannot_fake_a_line_of_the_report():
    key = (("scene", HOSTILE),)
    values = {"ctr/auc@imp": 0.5, "ctr/rows@imp": 3.0}
    table = format_table(SlicedMetrics(slices={(): values, key: values}))
    assert is_harmless(table) and is_harmless(slice_name(key))
    assert not any(line.lstrip().startswith("Pushed") for line in table.splitlines())


def test_cells_of_every_table_are_printable():
    lines = aligned([["slice", "rows"], [HOSTILE, "3"]])
    assert len(lines) == 2 and all(line.isprintable() for line in lines)


def test_a_message_from_the_log_is_printable(capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        console.keep_our_messages()
        (handler,) = root.handlers
        record = logging.LogRecord("x", logging.INFO, console.__file__, 1, HOSTILE, None, None)
        text = handler.format(record)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert is_harmless(text) and "\\x1b" in text


def test_a_value_in_an_error_is_printable(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"x,y\n\x1b[2K,1\n")
    with pytest.raises(DataError) as error:
        list(open_table(str(tmp_path / "t.csv"), {"x": Column(name="x", dtype="int64")}))
    assert is_harmless(str(error.value))


def test_a_file_name_that_would_break_a_line_is_refused(tmp_path):
    (tmp_path / "a\nPushed.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match="cannot be shown") as error:
        open_table(str(tmp_path), {"x": Column(name="x", dtype="int64")})
    assert "\n" not in str(error.value)
