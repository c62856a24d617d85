"""The days of a log with one folder per day, matched by a pattern with TFX's placeholders."""

import glob
import os
import re
from collections.abc import Mapping
from datetime import date

from tfx.components.example_gen import utils
from tfx.proto import example_gen_pb2, range_config_pb2

from pipeline.config import SPANS
from tfmtl.durable import Damaged, read_json
from tfmtl.errors import DataError
from tfmtl.plain import write_json

PLACEHOLDER = re.compile(r"\{(SPAN(?::\d+)?|YYYY|MM|DD)\}")


class Log:
    """The days of a log. A day's span is its number, or its days since 1970 if folders are dates.

    Args:
        path: The log's folder, or a pattern with placeholders, such as `logs/{YYYY}-{MM}-{DD}/*`.
        spans: The pattern of one day's files below the folder, if `path` is a folder.

    Raises:
        DataError: There is no such folder, or it has no day.
    """

    def __init__(self, path: str, spans: str = SPANS):
        self.pattern = path if "{" in path else os.path.join(path, spans)
        if "{" not in path and not os.path.isdir(path):
            raise DataError(
                f"{path!r} is not a folder. The data of each day are a folder in it: {spans}."
            )
        names = {m.group(1).split(":")[0] for m in PLACEHOLDER.finditer(self.pattern)}
        if names not in ({"SPAN"}, {"YYYY", "MM", "DD"}):
            raise DataError(
                f"{self.pattern!r} has the placeholders {sorted(names)}; {{SPAN}}, or {{YYYY}} "
                "with {MM} and {DD}, would be right."
            )
        self.spans = self._spans()
        if not self.spans:
            raise DataError(f"no file matches {self.pattern!r}: there is no day of data.")

    def folder(self, span: int) -> str:
        """The pattern of a day's files."""
        dated = "{YYYY}" in self.pattern
        return utils.get_pattern_for_span_version(self.pattern, not dated, dated, False, span, None)

    def name(self, span: int) -> str:
        """The name of a day: the part of the path that holds its number or date."""
        parts = self.pattern.split(os.sep)
        named = [i for i, part in enumerate(parts) if PLACEHOLDER.search(part)]
        return os.sep.join(self.folder(span).split(os.sep)[named[0] : named[-1] + 1])

    def fingerprint(self, span: int) -> str:
        """A hash that changes with a day's files, computed as in TFX's ExampleGen."""
        folder, name = os.path.split(self.folder(span))
        split = example_gen_pb2.Input.Split(name="rows", pattern=name)
        fingerprint, _, _ = utils.calculate_splits_fingerprint_span_and_version(folder, [split])
        return fingerprint

    def _spans(self) -> tuple[int, ...]:
        # The glob matches files; the text at a placeholder must also be a number.
        wildcards = glob.glob(PLACEHOLDER.sub("*", self.pattern))
        pieces = PLACEHOLDER.split(self.pattern)
        regex = "".join(
            _group(piece) if i % 2 else _literal(piece) for i, piece in enumerate(pieces)
        )
        spans = set()
        for path in wildcards:
            match = re.fullmatch(regex, path)
            if match:
                spans.add(_number(match.groupdict()))
        return tuple(sorted(spans))


def only(span: int) -> range_config_pb2.RangeConfig:
    """The configuration by which TFX's ExampleGen reads one day."""
    return range_config_pb2.RangeConfig(
        static_range=range_config_pb2.StaticRange(start_span_number=span, end_span_number=span)
    )


def known_days(log: Log, path: str) -> dict[int, str]:
    """Fingerprints of all days: the days in the log, and the days that an earlier call recorded.

    Days that were used and then deleted still count. Otherwise the log would begin later.

    Args:
        log: The log with its days.
        path: File that records the result for the next call.

    Raises:
        DataError: A day is missing between two others.
    """
    known: dict[int, str] = {}
    if os.path.exists(path):
        try:
            known = {int(span): mark for span, mark in read_json(path).items()}
        except Damaged as damage:
            print(f"{damage}. The log's days are those there are now.", flush=True)
    known.update({span: log.fingerprint(span) for span in log.spans})
    check_no_gap(log, known)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_json(path, known, indent=1, sort_keys=True)
    return dict(sorted(known.items()))


def check_no_gap(log: Log, days: Mapping[int, str]) -> None:
    """Refuses a series of days with a gap.

    Raises:
        DataError: A day is missing; the message names it.
    """
    first, last = min(days), max(days)
    missing = [span for span in range(first, last) if span not in days]
    if missing:
        names = ", ".join(log.name(span) for span in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{names}{more} missing between {log.name(first)} and {log.name(last)}: nothing "
            f"matches {log.folder(missing[0])!r}. Each slot continues the slot before it. Add the "
            "day, or move the days before the gap away and give another --output."
        )


def _group(placeholder: str) -> str:
    name, _, width = placeholder.partition(":")
    digits = {"YYYY": "4", "MM": "2", "DD": "2"}.get(name, width)
    return f"(?P<{name}>\\d{{{digits}}})" if digits else f"(?P<{name}>\\d+)"


def _literal(text: str) -> str:
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in text)


def _number(parts: Mapping[str, str]) -> int:
    if "SPAN" in parts:
        return int(parts["SPAN"])
    return (date(*(int(parts[name]) for name in ("YYYY", "MM", "DD"))) - date(1970, 1, 1)).days
