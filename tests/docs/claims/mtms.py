"""What the page on many scenes says of what its lines made."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import tfmtl


def parts():
    """When each part of the slot was written."""
    return {path.parent: path.stat().st_mtime_ns for path in Path("slots/3").rglob("about.json")}


def claims(page, whole):
    model, tomorrow, experiment = page["model"], page["tomorrow"], page["EXPERIMENT"]
    measured = model.evaluate(tomorrow.batches(8192))
    assert {"ctr/auc@imp", "cvr/auc@click", "ctcvr/auc@imp"} <= set(measured), measured
    assert tfmtl.load_slot("slots/3").evaluate(tomorrow.batches(8192)) == measured
    assert Path("ranker/1/saved_model.pb").exists()

    before = parts()
    log, days = page["log"], page["days"]
    window = log.filter(pc.and_(pc.greater(days, 0), pc.less_equal(days, 3)))
    video = window.filter(pc.equal(window["scene"], "feed"))
    scene = pa.array(["video"] * video.num_rows, video.schema.field("scene").type)
    video = video.set_column(video.column_names.index("scene"), "scene", scene)
    mtms = dataclasses.replace(experiment.mtms, scenes=("feed", "search", "video"))
    tfmtl.train_slot(
        dataclasses.replace(experiment, mtms=mtms),
        tfmtl.ArrayRows(page["preprocessor"](pa.concat_tables([window, video]))),
        slot=3,
        folder="slots/3",
        previous="slots/2",
    )
    after = parts()
    assert {p: t for p, t in after.items() if "video" not in p.parts} == before, (before, after)
    assert len(after) - len(before) == 3, after
