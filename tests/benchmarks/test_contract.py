import importlib
import json
import sys
import time
import types

import numpy as np
import pytest

from benchmarks import reproduce
from benchmarks.contract import Result, json_line, main, over_runs
from benchmarks.paper import Comparison, Measured, Paper, Published, compare
from benchmarks.papers import census_backbones
from tfmtl.errors import DataError

GOOD = Result(name="good", value=0.95, at_least=0.9)
BAD = Result(name="bad", value=12.0, unit="s", at_most=10.0)


def running(*rows):
    return lambda options: iter(rows)


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [
        (0.9, {"at_least": 0.9}, True),
        (0.89, {"at_least": 0.9}, False),
        (10.0, {"at_most": 10.0}, True),
        (10.1, {"at_most": 10.0}, False),
        (1.0, {"at_least": 0.97, "at_most": 1.03}, True),
        (1.05, {"at_least": 0.97, "at_most": 1.03}, False),
        (0.9, {"at_least": 0.97, "at_most": 1.03}, False),
        (float("nan"), {"at_least": 0.0}, False),
        (float("nan"), {"at_most": 0.0}, False),
        (5.0, {}, None),
    ],
)
def test_a_target_holds_inclusive_of_its_bound_and_never_for_nan(value, bounds, holds):
    assert Result(name="x", value=value, **bounds).holds is holds


def test_runs_give_their_mean_and_the_sample_standard_deviation():
    result = over_runs("auc", [0.1, 0.2, 0.6], at_least=0.3, note="small")
    assert (result.value, result.runs, result.note) == (pytest.approx(0.3), 3, "small")
    assert result.spread == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert over_runs("auc", [0.5]).spread is None
    with pytest.raises(ValueError, match="no runs"):
        over_runs("auc", [])


def test_contradicting_targets_and_hiding_details_are_refused():
    with pytest.raises(ValueError, match="at_least=2 is above at_most=1"):
        Result(name="x", value=1, at_least=2, at_most=1)
    with pytest.raises(ValueError, match="hide \\['value'\\]"):
        Result(name="x", value=1, details={"value": 2})


def test_json_prints_one_object_a_line_with_the_contract_s_fields(capsys):
    assert main("", running(GOOD, BAD), ["--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "name": "good",
        "value": 0.95,
        "unit": "",
        "target": 0.9,
        "at_least": 0.9,
        "at_most": None,
        "holds": True,
        "spread": None,
        "runs": 1,
        "note": "",
    }
    assert (second["target"], second["holds"], second["unit"]) == (10.0, False, "s")


def test_nan_infinity_and_numpy_numbers_are_strict_json():
    row = Result(
        name="x",
        value=np.float32("nan"),
        at_least=0.0,
        spread=float("inf"),
        details={"seeds": [np.int64(3), float("nan")]},
    )
    read = json.loads(json_line(row), parse_constant=pytest.fail)
    assert (read["value"], read["spread"], read["holds"]) == (None, None, False)
    assert read["seeds"] == [3, None]


def test_a_missed_target_fails_only_where_check_is_given(capsys):
    assert main("", running(GOOD, BAD), []) == 0
    assert main("", running(GOOD), ["--check"]) == 0
    assert main("", running(GOOD, BAD), ["--check"]) == 1
    assert "missed: bad" in capsys.readouterr().err


def test_a_row_without_a_target_is_not_missed():
    assert main("", running(Result(name="x", value=1.0)), ["--check"]) == 0


def test_a_benchmark_that_measures_nothing_fails(capsys):
    assert main("", running(), ["--check"]) == 2
    assert "nothing was measured" in capsys.readouterr().err


def test_the_table_has_all_of_each_row_and_leaves_empty_columns_out(capsys):
    rows = [over_runs("a long name", [0.5, 0.7], at_least=0.55), BAD]
    main("", running(*rows), [])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "value", "unit", "target", "holds"]
    assert first.split() == "a long name 0.6 ± 0.1414 ≥ 0.55 yes".split()
    assert second.split() == "bad 12 s ≤ 10 NO".split()


def test_rows_come_as_they_are_known_and_not_at_the_end(capsys):
    seen = []

    def run(options):
        yield GOOD
        seen.append(capsys.readouterr().out)
        yield BAD

    main("", run, ["--json"])
    assert json.loads(seen[0])["name"] == "good"


def test_what_a_benchmark_prints_does_not_get_between_the_json_lines(capsys):
    def run(options):
        print("Epoch 1/3")
        yield GOOD
        print("Epoch 2/3")

    main("", run, ["--json"])
    printed = capsys.readouterr()
    assert [json.loads(line)["name"] for line in printed.out.splitlines()] == ["good"]
    assert "Epoch 1/3" in printed.err and "Epoch 2/3" in printed.err


def test_rows_before_a_failure_are_still_shown(capsys):
    def run(options):
        yield GOOD
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        main("", run, [])
    assert "good" in capsys.readouterr().out


def test_an_error_the_user_can_mend_is_a_sentence(capsys):
    def run(options):
        raise DataError("give --data PATH.")
        yield

    assert main("", run, []) == 2
    assert capsys.readouterr().err == "error: give --data PATH.\n"


@pytest.mark.parametrize(
    ("argv", "seeds"), [([], 5), (["--quick"], 1), (["--quick", "--seeds", "3"], 3)]
)
def test_seeds_are_those_asked_for_else_one_where_quick(argv, seeds):
    got = []

    def run(options):
        got.append(options)
        yield GOOD

    main("", run, argv, seeds=5)
    assert got[0].seeds == seeds and got[0].quick is ("--quick" in argv)


def test_help_says_what_is_compared_with_what(capsys):
    with pytest.raises(SystemExit, match="0"):
        main("Ours against theirs,\non the same rows.", running(GOOD), ["--help"])
    printed = capsys.readouterr().out
    assert "Ours against theirs,\non the same rows." in printed
    assert all(flag in printed for flag in ("--json", "--check", "--quick", "--seeds"))


@pytest.mark.parametrize("seeds", ["0", "-2", "many"])
def test_an_impossible_number_of_seeds_is_refused(seeds):
    with pytest.raises(SystemExit, match="2"):
        main("", running(GOOD), ["--seeds", seeds])


def cell(value=0.7, **fields):
    return Published(name="cell", value=value, metric="auc@imp", run={"a": 1}, **fields)


def judged(published, values, interval=None):
    return Comparison(cell=published, ours=Measured(values=values, interval=interval)).reproduces


@pytest.mark.parametrize(
    ("published", "values", "reproduces"),
    [
        (cell(0.7, tolerance=0.01), [0.695, 0.715], True),
        (cell(0.7, tolerance=0.01), [0.72], False),
        (cell((0.70, 0.72), tolerance=0.01), [0.729], True),
        (cell((0.70, 0.72), tolerance=0.01), [0.689], False),
        (cell(0.7, rule="at_least"), [0.9], True),
        (cell(0.7, rule="at_least", tolerance=0.01), [0.68], False),
        (cell(-3.5, rule="sign"), [-1.0, -1.1, -0.9], True),
        (cell(-3.5, rule="sign"), [-1.0, 2.0, -0.9], False),
        (cell(12.2, rule="sign"), [-1.0, -1.1, -0.9], False),
        (cell(12.2, rule="sign"), [20.0], None),
        (cell(0.7, tolerance=1.0), [float("nan")], False),
        (cell(0.7, tolerance=1.0, not_comparable="another split"), [0.7], None),
    ],
)
def test_a_cell_reproduces_by_its_own_rule(published, values, reproduces):
    assert judged(published, values) is reproduces


def test_a_paired_interval_of_the_measurement_decides_a_sign():
    assert judged(cell(1.0, rule="sign"), [0.5], interval=(0.1, 0.9)) is True
    assert judged(cell(1.0, rule="sign"), [0.5], interval=(-0.1, 0.9)) is False


def test_the_interval_over_seeds_is_student_s():
    low, high = Measured(values=[1.0, 2.0, 3.0]).confidence()
    # t(0.975, 2) = 4.3027, times 1 / sqrt(3).
    assert (low, high) == (pytest.approx(2 - 2.4841, abs=1e-4), pytest.approx(4.4841, abs=1e-4))


def test_cells_of_one_run_are_measured_once_and_keep_the_paper_s_order():
    runs = []

    def measure(run, options):
        runs.append(run["arm"])
        return {m: Measured(values=[run["arm"] + options.seeds]) for m in ("auc@imp", "ne@imp")}

    table = [("ne@imp", 1), ("auc@imp", 2), ("auc@imp", 1), ("gauc@imp", None)]
    cells = [
        Published(
            name=f"{metric}/{arm}",
            value=1.0,
            metric=metric,
            run=None if arm is None else {"arm": arm},
            not_comparable="" if arm else "not measured",
        )
        for metric, arm in table
    ]
    rows = list(
        compare(Paper(title="t", cells=cells, measure=measure), types.SimpleNamespace(seeds=10))
    )
    assert runs == [1, 2]
    assert [row.name for row in rows] == [c.name for c in cells]
    assert [row.ours.mean() for row in rows[:3]] == [11, 12, 11]
    assert rows[3].cells()["ours"] == "-" and rows[3].cells()["reproduces"] == "not comparable"


def test_a_run_without_the_cell_s_metric_names_those_it_has():
    paper = Paper(
        title="t", cells=[cell()], measure=lambda run, options: {"ne@imp": Measured(values=[1.0])}
    )
    with pytest.raises(KeyError, match=r"gives no 'auc@imp'; it gives \['ne@imp'\]"):
        list(compare(paper, types.SimpleNamespace()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "exactly"}, "rules are"),
        ({"run": None}, "not_comparable= says why"),
        ({"value": 0.0, "rule": "sign"}, "has no sign"),
    ],
)
def test_a_cell_that_could_not_be_judged_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Published(**{"name": "c", "value": 1.0, "metric": "m", "run": {}, **wrong})


def test_two_cells_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"\['cell'\] more than once"):
        Paper(title="t", cells=[cell(), cell()], measure=dict)


def test_an_unknown_paper_is_answered_with_the_known_ones(capsys):
    assert reproduce.reproduce(["census_backbone"]) == 2
    printed = capsys.readouterr().err
    assert "census_backbones" in printed and "Did you mean" in printed


@pytest.mark.parametrize("name", reproduce.known_papers())
def test_every_paper_can_be_loaded_without_measuring_anything(name):
    started = time.perf_counter()
    assert reproduce.load(name).cells
    assert importlib.import_module(f"benchmarks.papers.{name}").__doc__
    assert time.perf_counter() - started < 5


@pytest.fixture
def quality(monkeypatch):
    """In place of training: figures that tell backbone and seed."""
    calls = []

    def train_and_test(experiment, tables, *, backbone, seed):
        calls.append((tables, backbone, seed))
        return {
            census_backbones.INCOME: 0.94 + seed / 1000,
            census_backbones.MARRIAGE: 0.99,
        }, None

    module = types.SimpleNamespace(train_and_test=train_and_test)
    monkeypatch.setitem(sys.modules, "benchmarks.quality", module)
    monkeypatch.setattr(census_backbones, "_census", lambda path: (None, f"read {path}"))
    return calls


def test_the_census_table_is_printed_beside_ours_and_judges_nothing(quality, capsys):
    argv = ["census_backbones", "--data", "rows", "--seeds", "3", "--json", "--check"]
    assert reproduce.reproduce(argv) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert quality[:3] == [("read rows", "shared_bottom", seed) for seed in (1, 2, 3)]
    assert len(quality) == 3 * 3
    mmoe = rows["mmoe/income50k"]
    assert (mmoe["published"], mmoe["ours"]) == (0.9579, pytest.approx(0.942))
    assert mmoe["interval"][0] < 0.942 < mmoe["interval"][1]
    assert rows["ple/income50k"]["published"] == [0.9583, 0.9593]
    assert rows["esmm/income50k"]["ours"] is rows["aitm/income50k"]["ours"] is None
    assert rows["mmoe/never_married (PaddleRec)"]["published"] == 0.99324
    assert all(row["reproduces"] is None and not row["comparable"] for row in rows.values())
    assert all(row["note"] for row in rows.values())


def test_the_census_table_without_data_says_what_to_give(quality, capsys):
    assert reproduce.reproduce(["census_backbones"]) == 2
    assert "--data path/to/census_income" in capsys.readouterr().err
