"""The papers' own data sets: found in a folder, read, counted, and rows of tables trained."""

import json

import pytest

from benchmarks import datasets, reproduce
from benchmarks.papers.automtl import arms as automtl
from benchmarks.papers.man import arms as man
from benchmarks.papers.pwiser import arms as pwiser
from tfmtl.simulator import (
    write_ali_ccp,
    write_aliexpress,
    write_ijcai15,
    write_user_behavior,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    write_ali_ccp(str(path / "ali_ccp"), rows=30_000)
    write_aliexpress(str(path / "aliexpress_nl"), rows=9_000)
    write_user_behavior(str(path / "user_behavior"), rows=16_000)
    write_ijcai15(str(path / "ijcai"), rows=16_000)
    return path


def test_every_public_data_set_of_a_paper_has_a_reader():
    countries = {f"aliexpress_{c}" for c in ("nl", "es", "fr", "us")}
    assert set(automtl.DATA_SETS) >= countries | {"user_behavior", "ijcai"}
    assert set(pwiser.DATA_SETS) >= (countries - {"aliexpress_es"}) | {"ali_ccp"}
    assert "ali_ccp" in man.DATA_SETS


def test_a_data_set_is_found_by_its_folder_or_by_its_own_files(folder):
    for data in (datasets.ALI_CCP, datasets.USER_BEHAVIOR, datasets.IJCAI):
        assert data.path_in(str(folder)) == str(folder / data.name)
        assert data.path_in(str(folder / data.name)) == str(folder / data.name)
    by_name = {data.name: data for data in datasets.ALIEXPRESS}
    alone = str(folder / "aliexpress_nl")
    assert by_name["aliexpress_nl"].path_in(alone) == alone
    assert by_name["aliexpress_us"].path_in(alone) is None
    assert datasets.ALI_CCP.path_in(None) is None


def test_the_tasks_stand_in_the_order_of_the_printed_columns():
    names = {n: [t.name for t in automtl.DATA_SETS[n].tasks] for n in ("user_behavior", "ijcai")}
    assert names == {
        "user_behavior": ["click", "buy", "cart", "favourite"],
        "ijcai": ["purchase", "favourite"],
    }


def test_networks_have_the_papers_sizes_on_their_data_and_small_ones_in_a_quick_run():
    nl = pwiser.DATA_SETS["aliexpress_nl"]
    full = pwiser.experiment(nl, "mmoe", "pwiser", 1, pwiser.Sizes())
    assert (full.model.dim, full.model.backbone["num_experts"]) == (128, 8)
    assert full.training.batch_size == 2048 and full.model.terms[0]["name"] == "pwiser"
    quick = pwiser.Sizes(papers_sizes=False)
    assert pwiser.experiment(nl, "mmoe", "bce", 1, quick).model.dim == 16
    sized = automtl.sized(automtl.DATA_SETS["aliexpress_nl"], automtl.FULL)
    assert (sized.dim, sized.batch_size, sized.search["epochs"]) == (128, 2048, 10)
    assert automtl.sized(automtl.DATA_SETS["ijcai"], automtl.FULL).dim == 64
    assert automtl.sized(automtl.DATA_SETS["ijcai"], automtl.QUICK) == automtl.QUICK


def test_the_first_rows_give_an_estimate_of_all(folder):
    rows, total = datasets.first_rows("ali_ccp", "aitm", str(folder / "ali_ccp"))
    assert 0 < len(rows) <= 30_000 and 0.5 * 30_000 < total < 2 * 30_000
    pairs, count = datasets.first_rows("user_behavior", "automtl", str(folder / "user_behavior"))
    assert count == len(pairs)


def test_the_number_of_rows_is_held_against_the_published_one(folder):
    (row,) = datasets.row_count(datasets.ALI_CCP, str(folder / "ali_ccp"))
    plain = row.to_json()
    assert plain["published"] == 85_316_519 and plain["reproduces"] is False
    assert 29_000 < plain["ours"] <= 30_000 and "not the file" in plain["note"]
    assert list(datasets.row_count(datasets.ALI_CCP, None)) == []


ROWS = [
    ("man", "ali_ccp", "mmoe,man,lightgbm", "Table 1, ali_ccp: man/ctr/auc@imp"),
    ("pwiser", "aliexpress_nl", "mmoe", "Table 4, aliexpress_nl: mmoe/pwiser/ctr/auc@imp"),
    ("pwiser", "ali_ccp", "ple", "Table 4, ali_ccp: ple/bce/ctr/auc@imp"),
    ("automtl", "aliexpress_nl", "mmoe,automtl", "Table 3, aliexpress_nl: automtl/ctr/auc@imp"),
    ("automtl", "user_behavior", "mmoe,automtl", "Table 3, user_behavior: automtl/buy/auc@pair"),
    ("automtl", "ijcai", "mmoe", "Table 3, ijcai: mmoe/purchase/auc@pair"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "data_set", "models", "name"), ROWS)
def test_a_row_of_a_papers_table_runs_from_raw_files_by_one_command(
    folder, tmp_path, capsys, paper, data_set, models, name
):
    argv = [paper, "--quick", "--json", "--data", str(folder), "--sets", data_set]
    argv += ["--models", models, "--keep", str(tmp_path), "--report", str(tmp_path / "report")]
    assert reproduce.reproduce(argv) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert 0.2 < rows[name]["ours"] < 0.95 and rows[name]["comparable"]
    assert rows[name]["data_set"] == data_set
    assert f"rows, {data_set}" in rows
    assert name in (tmp_path / "report" / f"{paper}.html").read_text()
