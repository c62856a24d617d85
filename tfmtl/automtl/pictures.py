"""Draws a network as a diagram; data flow from the bottom to the top."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.automtl.parts import Chosen, Expert

COLUMN, ROW = 1.55, 0.85
"""Inches between experts, and between layers."""

BOX = (1.3, 0.5)
FAMILIES = {
    "skip": "#eeeeee",
    "mlp": "#bcd4ee",
    "convolution": "#fbd3a4",
    "gate": "#c8e6c0",
    "gate_bit": "#c8e6c0",
    "gate_vector": "#c8e6c0",
    "cross": "#f4c2c2",
    "self_attention": "#fff0a8",
    "product_inner": "#d3d9a0",
    "product_outer": "#d3d9a0",
}
POOLING, OTHER, PLAIN = "#ddcdee", "#d9ead3", "#ffffff"
TASKS = ("tab:blue", "tab:red", "tab:green", "tab:purple", "tab:brown", "tab:cyan", "tab:olive")


def draw_architecture(architecture: Architecture, *, title: str | None = None) -> Any:
    """Draws fields, interaction, experts, each task's choice of experts, and towers.

    A skip is drawn as a dashed outline. A line from an expert to a task means that the task chose
    the expert; it is thicker for a larger weight.

    Args:
        architecture: The network.
        title: Text above the picture; the name of the data of the search by default.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    # Imported here, because a search needs no plotting library.
    from matplotlib.figure import Figure

    experts, tasks = architecture.experts, list(architecture.tasks)
    columns = max(len(experts), len(tasks))
    layers = max(1 + len(expert.blocks) for expert in experts)
    # From below: fields, interaction, experts, a gap for the lines, gates, towers.
    rows = 1 + (architecture.interaction is not None) + layers + 1.2 + 2
    figure = Figure(figsize=(max(columns * COLUMN + 0.4, 5.0), rows * ROW + 0.3))
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.axis("off")
    axis.set(xlim=(-0.65 * COLUMN, (columns - 0.35) * COLUMN), ylim=(-0.5, rows * ROW - 0.15))
    middle = (columns - 1) * COLUMN / 2
    places = _places(len(experts), columns)
    wide = max(places[-1] - places[0] + BOX[0], 2.2)

    _box(axis, middle, 0.0, _fields_label(architecture), PLAIN, width=wide)
    below = 0.0
    if architecture.interaction is not None:
        _joined(axis, middle, below, ROW)
        _operation(
            axis,
            middle,
            ROW,
            architecture.interaction,
            _colour(architecture.interaction),
            width=wide,
        )
        below = ROW
    foot = below + ROW
    top = foot + (layers - 1) * ROW
    for x, expert in zip(places, experts, strict=True):
        _joined(axis, x, below, foot)
        _draw_expert(axis, x, expert, foot, top)
    at = {expert.id: x for x, expert in zip(places, experts, strict=True)}
    _draw_tasks(axis, architecture, at, top, columns)
    figure.text(0.012, 0.988, title or architecture.dataset or "", va="top", fontsize=9)
    return figure


def _draw_expert(axis: Any, x: float, expert: Expert, foot: float, top: float) -> None:
    """Draws an expert's pooling and blocks from `foot` upwards, and a line from them to `top`."""
    _operation(axis, x, foot, expert.pooling, POOLING)
    y = foot
    for block in expert.blocks:
        _joined(axis, x, y, y + ROW)
        y += ROW
        _operation(axis, x, y, block, _colour(block))
    if y < top:
        axis.plot([x, x], [y + BOX[1] / 2, top + BOX[1] / 2], color="black", linewidth=0.9)
    # Next to the arrow below, because the lines to the tasks would cross it above the expert.
    name, low = f"expert {expert.id}", foot - BOX[1] / 2 - 0.06
    axis.text(x - BOX[0] / 2, low, name, va="top", fontsize=7, color="dimgrey")


def _draw_tasks(
    axis: Any, architecture: Architecture, at: Mapping[int, float], top: float, columns: int
) -> None:
    """Draws gates and towers above the experts, whose middles are `at` and whose top is `top`."""
    tasks = list(architecture.tasks)
    gates = top + 1.5 * ROW + BOX[1]
    for k, (x, task) in enumerate(zip(_places(len(tasks), columns), tasks, strict=True)):
        selection, colour = architecture.tasks[task], TASKS[k % len(TASKS)]
        for i in selection.experts:
            # The lines of the tasks start side by side, so that none hides another.
            start = at[i] + (k - (len(tasks) - 1) / 2) * 0.14
            share = None if selection.beta is None else selection.beta[i]
            axis.plot(
                [start, x],
                [top + BOX[1] / 2, gates - BOX[1] / 2],
                color=colour,
                linewidth=1.4 if share is None else 0.8 + 6.0 * min(share, 0.5),
                alpha=0.8,
                solid_capstyle="round",
            )
        gate = "gate" if len(selection.experts) > 1 else "its expert"
        _box(axis, x, gates, gate, PLAIN, edge=colour)
        _joined(axis, x, gates, gates + ROW)
        widths = " → ".join(map(str, (*architecture.tower_units, 1)))
        _box(axis, x, gates + ROW, f"{task}\n{widths}", PLAIN, edge=colour)


def _fields_label(architecture: Architecture) -> str:
    shape = [
        f"{number} {unit}" if unit == "fields" else f"{unit} {number}"
        for number, unit in ((architecture.fields, "fields"), (architecture.dim, "width"))
        if number is not None
    ]
    return ", ".join(shape) if architecture.fields is not None else ", ".join(["fields", *shape])


def _places(count: int, columns: int) -> Sequence[float]:
    """The middles of `count` boxes that are spread over `columns` columns."""
    step = COLUMN * columns / count
    return [(i + 0.5) * step - COLUMN / 2 for i in range(count)]


def _colour(chosen: Chosen) -> str:
    return FAMILIES.get(chosen.config["name"], OTHER)


def _operation(
    axis: Any, x: float, y: float, chosen: Chosen, colour: str, width: float = BOX[0]
) -> None:
    text = chosen.label if chosen.prob is None else f"{chosen.label}\n{chosen.prob:.2f}"
    _box(axis, x, y, text, colour, width=width, dashed=chosen.is_skip)


def _box(
    axis: Any,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    width: float = BOX[0],
    edge: str = "black",
    dashed: bool = False,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    height = BOX[1]
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour,
            edgecolor="grey" if dashed else edge,
            linestyle="--" if dashed else "-",
            linewidth=1.0,
            zorder=3,
        )
    )
    size = min(8.0, 8.0 * (width - 0.1) / (0.075 * max(map(len, text.split("\n")))))
    axis.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=size,
        zorder=4,
        color="grey" if dashed else "black",
    )


def _joined(axis: Any, x: float, low: float, high: float) -> None:
    """An arrow from the box at `low` to the one at `high`."""
    axis.annotate(
        "",
        xy=(x, high - BOX[1] / 2),
        xytext=(x, low + BOX[1] / 2),
        arrowprops={
            "arrowstyle": "-|>",
            "linewidth": 0.9,
            "color": "black",
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 8,
        },
        zorder=2,
    )
