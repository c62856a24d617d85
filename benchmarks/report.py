"""One report of a table, as HTML and as Markdown: published beside ours, verdicts, errata."""

import datetime
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.contract import Row, number
from benchmarks.paper import Paper
from tfmtl.plain import write_text
from tfmtl.text import printable

CELLS = ("cell", "published", "ours", "95 % interval", "runs", "verdict", "why")
FIGURES = ("figure", "ours", "95 % interval", "note")
VERDICTS: Mapping[bool | None, str] = {True: "reproduces", False: "does not", None: "undecided"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em;
  color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: 1em 0; font-size: 14px; }
th, td { text-align: left; padding: .3em .7em; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #999; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.reproduces { color: #11692f; } .does-not { color: #a11b1b; } .other { color: #666; }
"""


def write_report(
    folder: str, name: str, paper: Paper, rows: Sequence[Row], settings: Mapping[str, Any]
) -> tuple[str, str]:
    """Writes `NAME.html` and `NAME.md`.

    Args:
        folder: The folder; it is created if it does not exist.
        name: Name of the paper.
        paper: Its title and errata.
        rows: The rows of the table, those without a published figure among them.
        settings: What was run, by name; nothing, `None` and empty values are left out.

    Returns:
        Both files.
    """
    os.makedirs(folder, exist_ok=True)
    plain = [row.to_json() for row in rows]
    cells = [row for row in plain if "published" in row]
    figures = [row for row in plain if "published" not in row]
    parts = _Parts(
        title=paper.title,
        settings=[f"{name}: {_setting(value)}" for name, value in settings.items() if value],
        summary=_summary(cells),
        cells=[_cell(row) for row in cells],
        figures=[_figure(row) for row in figures],
        errata=list(paper.errata),
    )
    paths = os.path.join(folder, f"{name}.html"), os.path.join(folder, f"{name}.md")
    write_text(paths[0], parts.html())
    write_text(paths[1], parts.markdown())
    return paths


class _Parts:
    """The content of a report, which both forms have."""

    def __init__(
        self,
        *,
        title: str,
        settings: list[str],
        summary: str,
        cells: list[list[str]],
        figures: list[list[str]],
        errata: list[str],
    ) -> None:
        self.title, self.settings, self.summary = title, settings, summary
        self.cells, self.figures, self.errata = cells, figures, errata
        self.date = datetime.date.today().isoformat()

    def html(self) -> str:
        body = [f"<h1>{_escaped(self.title)}</h1>", f"<p>{_escaped(self.summary)}</p>"]
        body.append(f"<p class='other'>{self.date}. {_escaped('; '.join(self.settings))}</p>")
        body.append(_html_table(CELLS, self.cells))
        if self.errata:
            items = "".join(f"<li>{_escaped(each)}</li>" for each in self.errata)
            body.append(f"<h2>Errata of the paper</h2><ul>{items}</ul>")
        if self.figures:
            body.append("<h2>Further figures and tests</h2>" + _html_table(FIGURES, self.figures))
        head = f"<meta charset='utf-8'><title>{_escaped(self.title)}</title><style>{STYLE}</style>"
        content = "\n".join(body)
        return (
            f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>{content}</body></html>\n"
        )

    def markdown(self) -> str:
        parts = [f"# {self.title}", self.summary, f"{self.date}. {'; '.join(self.settings)}"]
        parts.append(_markdown_table(CELLS, self.cells))
        if self.errata:
            parts += ["## Errata of the paper", "\n".join(f"- {each}" for each in self.errata)]
        if self.figures:
            parts += ["## Further figures and tests", _markdown_table(FIGURES, self.figures)]
        return "\n\n".join(parts) + "\n"


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _summary(cells: Iterable[Mapping[str, Any]]) -> str:
    verdicts = [_verdict(row) for row in cells]
    judged = [verdict for verdict in verdicts if verdict in (VERDICTS[True], VERDICTS[False])]
    agree = judged.count(VERDICTS[True])
    return (
        f"{len(verdicts)} published figures: {agree} of {len(judged)} that are judged reproduce; "
        f"{verdicts.count('not comparable')} are not comparable, "
        f"{verdicts.count('not run') + verdicts.count(VERDICTS[None])} not run or undecided."
    )


def _cell(row: Mapping[str, Any]) -> list[str]:
    published = row["published"]
    if isinstance(published, tuple | list):
        published = " … ".join(map(number, published))
    elif not isinstance(published, str):
        published = number(published)
    unit = f" {row['unit']}" if row.get("unit") else ""
    verdict = _verdict(row)
    return [
        row["name"],
        f"{published}{unit}",
        _value(row["ours"]),
        _interval(row["interval"]),
        str(row["runs"] or ""),
        verdict,
        row["note"] or "",
    ]


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["comparable"]:
        return "not comparable"
    if not row["runs"]:
        return "not run"
    return VERDICTS[row["reproduces"]]


def _figure(row: Mapping[str, Any]) -> list[str]:
    value = row.get("ours", row.get("value"))
    return [row["name"], _value(value), _interval(row.get("interval")), row.get("note") or ""]


def _value(value: Any) -> str:
    return "" if value is None or value != value else number(value)


def _interval(interval: Any) -> str:
    return "" if not interval else f"[{', '.join(map(number, interval))}]"


def _html_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = {"published", "ours", "95 % interval", "runs"}
    kinds = {name: " class='number'" for name in numbers}
    head = "".join(f"<th{kinds.get(name, '')}>{_escaped(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = []
        for name, text in zip(names, row, strict=True):
            kind = "number" if name in numbers else _class_of(text) if name == "verdict" else ""
            mark = f" class='{kind}'" if kind else ""
            cells.append(f"<td{mark}>{_escaped(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"


def _class_of(verdict: str) -> str:
    return {VERDICTS[True]: "reproduces", VERDICTS[False]: "does-not"}.get(verdict, "other")


def _markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(names), ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_one_line(cell) for cell in line) + " |" for line in lines)


def _one_line(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    return html.escape(printable(text))
