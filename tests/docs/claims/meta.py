"""What the page on meta-training and cold starts says of what its lines made."""

from pathlib import Path


def claims(page, whole):
    report, tables = page["report"], page["tables"]
    assert report.models == ("plain", "meta") and report.ks == (0, 5, 20, 50)
    columns = set(report.to_frame()["metric"])
    assert {"ctr/auc@imp", "ctr/group_auc@imp", "ctcvr/calibration@imp"} <= columns, columns
    assert report.curve("ctr/ne@imp", "meta")[0].difference.value != 0.0
    known = set(tables["train"]["advertiser_id"].to_pylist())
    assert not known & set(tables["test"]["advertiser_id"].to_pylist())
    assert Path("cold_start.png").read_bytes().startswith(b"\x89PNG")
