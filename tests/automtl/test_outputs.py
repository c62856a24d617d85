"""What is kept of a search: tables of its history, and pictures with all of the network."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from tfmtl.automtl.__main__ import main
from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.curves import draw_directions, draw_selection, draw_skips
from tfmtl.automtl.outputs import write_pictures, write_tables
from tfmtl.automtl.parts import Chosen, Expert, Selection
from tfmtl.automtl.pictures import draw_architecture
from tfmtl.errors import DataError

SKIP = Chosen(label="skip", config={"name": "skip"}, prob=0.3)


def expert(id_, pooling, *blocks):
    return Expert(
        id=id_,
        pooling=Chosen(label=pooling, config={"name": pooling}, prob=0.4),
        blocks=[
            SKIP if b == "skip" else Chosen(label=b, config={"name": b.split("-")[0]}, prob=0.2)
            for b in blocks
        ],
    )


FOUND = Architecture(
    interaction=Chosen(label="cross-2", config={"name": "cross", "layers": 2}, prob=0.21),
    experts=[expert(0, "sum", "mlp-64", "skip"), expert(3, "attentive", "skip", "own-thing")],
    tasks={
        "ctr": Selection(experts=[0, 3], beta=[0.4, 0.1, 0.1, 0.4]),
        "cvr": Selection(experts=[3], beta=[0.1, 0.1, 0.1, 0.7]),
    },
    dim=16,
    fields=5,
    tower_units=(32,),
    dataset="simulated",
)
HISTORY = [
    {
        "epoch": 0,
        "n_skip": 2,
        "n_blocks": 9,
        "selection": {"ctr": [0.25, 0.25, 0.25, 0.25], "cvr": [0.1, 0.2, 0.3, 0.4]},
        "difference": {"interaction/cross-2": 0.5, "hidden_0/mlp-64/3": 0.75},
        "frozen": [],
    },
    {
        "epoch": 1,
        "n_skip": 4,
        "n_blocks": 9,
        "selection": {"ctr": [0.4, 0.1, 0.1, 0.4], "cvr": [0.1, 0.1, 0.1, 0.7]},
        "difference": {"interaction/cross-2": 0.25, "hidden_0/mlp-64/3": None},
        "frozen": ["hidden_0/mlp-64/3"],
    },
]
PICTURES = ["architecture.png", "beta_heatmap.png", "gradient_direction.png", "skip_counts.png"]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def names(paths):
    return sorted(path.rsplit("/", 1)[-1] for path in paths)


def test_tables_have_the_history_epoch_by_epoch(tmp_path):
    write_tables(str(tmp_path), HISTORY)
    assert table(tmp_path / "skip_counts.csv") == [
        {"epoch": "1", "n_skip": "2", "n_blocks": "9"},
        {"epoch": "2", "n_skip": "4", "n_blocks": "9"},
    ]
    weights = table(tmp_path / "beta_heatmap.csv")
    assert len(weights) == 2 * 2 * 4
    assert weights[7] == {"epoch": "1", "task": "cvr", "expert": "3", "weight": "0.400000"}
    first, *_, last = table(tmp_path / "gradient_direction.csv")
    own = {"epoch": "1", "block": "interaction", "operation": "cross-2", "expert": ""}
    assert first == {**own, "difference": "0.500000", "stopped": "0"}
    own = {"epoch": "2", "block": "hidden_0", "operation": "mlp-64", "expert": "3"}
    assert last == {**own, "difference": "", "stopped": "1"}


def test_every_picture_is_a_picture(tmp_path):
    written = write_pictures(str(tmp_path), FOUND, HISTORY)
    assert names(written) == PICTURES
    for path in written:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_what_the_history_lacks_is_neither_a_table_nor_a_picture(tmp_path):
    without = [{**row, "selection": {}, "difference": {}} for row in HISTORY]
    assert names(write_tables(str(tmp_path), without)) == ["skip_counts.csv"]
    trials = [{"trial": 0, "n_skip": 3, "val_loss": 0.3}]
    assert write_tables(str(tmp_path), trials) == []
    assert names(write_pictures(str(tmp_path), FOUND, trials)) == ["architecture.png"]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_diagram_names_every_operation_expert_and_task():
    said = "\n".join(texts(draw_architecture(FOUND)))
    for name in ("5 fields, width 16", "cross-2\n0.21", "mlp-64", "own-thing", "attentive\n0.40"):
        assert name in said
    assert said.count("skip") == 2 and "expert 0" in said and "expert 3" in said
    assert "ctr\n32 → 1" in said and said.count("gate") == 1 and "its expert" in said


def test_a_line_joins_each_task_to_each_of_its_experts_and_to_no_other():
    lines = draw_architecture(FOUND).axes[0].lines
    assert len(lines) == 3
    starts = {}
    for line in lines:
        starts.setdefault(line.get_color(), []).append(round(line.get_xdata()[0] / 1.55))
    assert sorted(starts.values()) == [[0, 1], [1]]
    # The heavier the choice, the thicker the line.
    assert lines[2].get_linewidth() > lines[1].get_linewidth() == lines[0].get_linewidth()


def test_a_network_without_weights_interaction_or_layers_is_drawn_too():
    bare = Architecture(
        experts=[Expert(id=0, pooling=dataclasses.replace(SKIP, label="sum"), blocks=())],
        tasks={task: Selection(experts=[0]) for task in "abcd"},
    )
    figure = draw_architecture(bare)
    assert len(figure.axes[0].lines) == 4
    assert "fields" in texts(figure)


def test_boxes_of_eight_experts_and_four_tasks_do_not_overlap():
    many = Architecture(
        experts=[expert(i, "attentive", "mlp-1024", "gate-hidden", "conv-7") for i in range(8)],
        tasks={f"task {k}": Selection(experts=list(range(8))) for k in range(4)},
        interaction=FOUND.interaction,
    )
    boxes = [patch.get_bbox() for patch in draw_architecture(many).axes[0].patches]
    boxes = [box for box in boxes if box.width < 20]
    assert len(boxes) >= 8 * 4 + 4 * 2
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0
            assert apart or one.y1 <= other.y0 or other.y1 <= one.y0


def test_heat_maps_show_the_weights_of_every_epoch_by_task():
    axes = draw_selection(HISTORY).axes
    assert [axis.get_title() for axis in axes[:2]] == ["ctr", "cvr"]
    np.testing.assert_allclose(
        axes[1].images[0].get_array(), [row["selection"]["cvr"] for row in HISTORY]
    )


def test_skips_of_several_searches_are_drawn_beside_each_other():
    axis = draw_skips({"full": HISTORY, "w/o OLES": HISTORY[:1]}).axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[2, 4], [2]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["full", "w/o OLES"]


def test_directions_are_means_by_operation_and_blank_where_none_was_tested():
    more = [
        {**row, "difference": {**row["difference"], "hidden_1/mlp-64/0": 0.25}} for row in HISTORY
    ]
    left, right, *_ = draw_directions(more).axes
    shown = np.ma.filled(left.images[0].get_array().astype(float), np.nan)
    np.testing.assert_allclose(shown, [[0.5, 0.25], [0.5, 0.25]])
    assert [list(line.get_ydata()) for line in right.lines] == [[0, 0], [0, 50]]
    shown = draw_directions(HISTORY).axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(np.ma.masked_invalid(shown))[1], [0, 1])


@pytest.mark.parametrize("draw", [draw_selection, draw_directions])
def test_what_is_not_there_cannot_be_drawn(draw):
    with pytest.raises(DataError, match="nothing to draw"):
        draw([{"epoch": 0, "n_skip": 1, "n_blocks": 2}])


def test_the_command_says_the_network_and_draws_anew(tmp_path, capsys):
    (tmp_path / "architecture.json").write_text(FOUND.to_json())
    (tmp_path / "history.json").write_text(json.dumps(HISTORY))
    (tmp_path / "budget.json").write_text(json.dumps({"seconds": 12.4, "steps": 2000}))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(str(FOUND)) and "12 seconds, 2,000 steps" in said
    assert "expert 3     attentive (0.40) → skip (0.30) → own-thing (0.20)" in said
    assert [path.name for path in sorted((tmp_path / "out").glob("*.png"))] == PICTURES


@pytest.mark.parametrize(
    ("text", "message"), [(None, "is not there"), ('{"schema": 9}', "schema=9 is not 1")]
)
def test_the_command_refuses_a_folder_without_a_network(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "architecture.json").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
