"""Reports, dry runs and the choice of a part of a table."""

import argparse
import html.parser
import types

import pytest

from benchmarks import reproduce
from benchmarks.paper import (
    Comparison,
    Further,
    Measured,
    Paper,
    Planned,
    Published,
    chosen,
)
from benchmarks.report import write_report


def cell(name, value=0.7, **fields):
    run = {"data": "shop", "model": name}
    made = {"metric": "ctr/auc@imp", "run": run, "tolerance": 0.01, **fields}
    return Published(name=f"Table 1: {name}", value=value, **made)


def ours(*values):
    return Measured(values=values)


ROWS = [
    Comparison(cell=cell("near"), ours=ours(0.701, 0.703)),
    Comparison(cell=cell("far"), ours=ours(0.6, 0.61)),
    Comparison(cell=cell("other", not_comparable="another | split"), ours=ours(0.5, 0.5)),
    Comparison(cell=cell("unrun", run=None, not_comparable="no rows"), ours=ours()),
    Further(name="shop/<b>near</b>/ne", ours=ours(0.9, 0.91), note="of clicks"),
]
PAPER = Paper(title="A paper & its table", cells=(), measure=dict, errata=("K and M are swapped.",))


class Cells(html.parser.HTMLParser):
    """The texts of a page's cells, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


@pytest.fixture
def pages(tmp_path):
    paths = write_report(
        str(tmp_path / "report"), "a_paper", PAPER, ROWS, {"seeds": 2, "data": None}
    )
    return types.SimpleNamespace(html=open(paths[0]).read(), markdown=open(paths[1]).read())


def test_published_stands_beside_ours_with_interval_and_verdict_in_both_forms(pages):
    reader = Cells()
    reader.feed(pages.html)
    rows = {row[0]: row for row in reader.rows}
    assert rows["Table 1: near"][1:3] == ["0.7", "0.702"]
    assert rows["Table 1: near"][5] == "reproduces" and rows["Table 1: near"][3].startswith("[")
    assert rows["Table 1: far"][5] == "does not"
    assert rows["Table 1: other"][5:] == ["not comparable", "another | split"]
    assert rows["Table 1: unrun"][2] == ""
    lines = pages.markdown.splitlines()
    (line,) = [line for line in lines if line.startswith("| Table 1: near")]
    assert line.split(" | ")[1:3] == ["0.7", "0.702"] and "reproduces" in line
    # A bar in a text would be another cell.
    assert any("another \\| split" in line for line in lines)


def test_errata_and_the_count_of_verdicts_are_in_both_forms(pages):
    for page in (pages.html, pages.markdown):
        assert "K and M are swapped." in page
        assert "1 of 2 that are judged reproduce; 2 are not comparable" in page
        assert "seeds: 2" in page and "data: None" not in page


def test_what_is_a_tag_in_a_name_is_text_on_the_page(pages):
    assert "<b>near" not in pages.html and "&lt;b&gt;near" in pages.html
    assert "A paper &amp; its table" in pages.html


def test_a_cell_says_its_data_set_model_and_space():
    plain = ROWS[0].to_json()
    assert (plain["data_set"], plain["model"], plain["space"]) == ("shop", "near", "imp")
    difference = cell("x", run={"data": "shop", "arm": "a", "less": "b"})
    assert difference.model == "a less b"


def test_a_part_of_a_table_has_the_cells_of_its_sets_and_models_alone():
    cells = [
        cell("a"),
        cell("b"),
        cell("c", run={"data": "other", "model": "a"}),
        cell("d", run={"data": "shop", "model": "a", "less": "b"}),
    ]
    names = lambda **options: [  # noqa: E731
        c.name[-1] for c in chosen(cells, argparse.Namespace(**options))
    ]
    assert names() == ["a", "b", "c", "d"]
    assert names(sets=("shop",), models=None) == ["a", "b", "d"]
    assert names(sets=None, models=("a",)) == ["a", "c"]
    assert names(sets=("shop",), models=("a", "b")) == ["a", "b", "d"]


@pytest.fixture
def planned(monkeypatch):
    """A paper of two arms, one of which is kept for the first seed."""
    probed = []

    def probe():
        probed.append(1)
        return 30.0

    def plan(options):
        for arm in ("mmoe", "search"):
            for seed in range(options.seeds):
                yield Planned(
                    data_set="shop",
                    arm=arm,
                    seed=seed,
                    kept=arm == "mmoe" and seed == 0,
                    rows=1e6,
                    epochs=10,
                    probe=probe if arm == "mmoe" else lambda: float("nan"),
                )

    def measure(run, options):
        raise AssertionError("a dry run measures nothing")

    paper = Paper(title="t", cells=(cell("mmoe"),), measure=measure, plan=plan)
    monkeypatch.setattr(reproduce, "load", lambda name: paper)
    return probed


def test_a_dry_run_says_what_is_left_how_long_and_how_much_and_trains_nothing(
    planned, capsys, tmp_path
):
    (tmp_path / "rows.csv").write_text("1\n" * 1000)
    argv = ["man", "--dry-run", "--seeds", "3", "--data", str(tmp_path)]
    assert reproduce.reproduce(argv) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.startswith("shop") and "mmoe" in line]
    # Ten epochs of thirty seconds.
    assert "2 of 3" in line and "1,000,000" in line and line.endswith("5 min")
    assert "6 trainings and searches, of which 1 are kept; about 10 min" in text
    assert "only a run shows it: shop search" in text and "0.002 MB" in text
    assert len(planned) == 1


def test_a_paper_without_a_plan_says_so(monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "load", lambda name: PAPER)
    assert reproduce.reproduce(["mtms", "--dry-run"]) == 2
    assert "lists no plan" in capsys.readouterr().err


def test_an_unknown_data_set_or_model_is_refused_with_the_nearest(capsys):
    assert reproduce.reproduce(["man", "--quick", "--sets", "ali_cpp"]) == 2
    assert "Did you mean 'ali_ccp'" in capsys.readouterr().err


def test_a_report_is_written_of_what_was_measured_before_an_error(monkeypatch, tmp_path, capsys):
    def further(options):
        yield ROWS[0]
        raise RuntimeError("the disk is full")

    paper = Paper(title="t", cells=(), measure=dict, further=further)
    monkeypatch.setattr(reproduce, "load", lambda name: paper)
    with pytest.raises(RuntimeError):
        reproduce.reproduce(["man", "--report", str(tmp_path)])
    assert "Table 1: near" in (tmp_path / "man.md").read_text()
