"""AutoMTL's printed tables, and our figures to compare with them.

The paper is "Automatic Multi-Task Learning Framework with Neural Architecture Search for
Recommender Systems". On the paper's own data sets, levels and the differences of each task are
judged. Any other data set is compared with the mean of the paper's data sets with as many tasks,
by the sign of the difference of mean AUC.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.paper import Published

OURS, RANDOM = "automtl", "random"

TABLE_3: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "user_behavior": {
        "single_task": (0.7184, 0.7220, 0.7008, 0.8425),
        "shared_bottom": (0.7232, 0.7289, 0.7017, 0.8307),
        "mmoe": (0.7255, 0.7276, 0.7077, 0.8393),
        "cgc": (0.7248, 0.7281, 0.7036, 0.8418),
        "ple": (0.7247, 0.7300, 0.7041, 0.8407),
        "random": (0.7255, 0.7283, 0.7041, 0.844),
        "automtl": (0.7275, 0.7323, 0.7085, 0.8465),
    },
    "ijcai": {
        "single_task": (0.7691, 0.8509),
        "shared_bottom": (0.7700, 0.8530),
        "mmoe": (0.7692, 0.8526),
        "cgc": (0.7700, 0.8527),
        "ple": (0.7708, 0.8516),
        "random": (0.7719, 0.8528),
        "automtl": (0.7741, 0.8571),
    },
    "aliexpress_nl": {
        "single_task": (0.7260, 0.8543),
        "shared_bottom": (0.7263, 0.8478),
        "mmoe": (0.7218, 0.8565),
        "cgc": (0.7262, 0.8577),
        "ple": (0.7293, 0.8553),
        "random": (0.7295, 0.8620),
        "automtl": (0.7345, 0.8640),
    },
    "aliexpress_es": {
        "single_task": (0.7294, 0.8870),
        "shared_bottom": (0.7275, 0.8927),
        "mmoe": (0.7291, 0.8879),
        "cgc": (0.7268, 0.8881),
        "ple": (0.7312, 0.8927),
        "random": (0.7305, 0.8926),
        "automtl": (0.7342, 0.8963),
    },
    "aliexpress_fr": {
        "single_task": (0.7266, 0.8707),
        "shared_bottom": (0.7219, 0.8714),
        "mmoe": (0.7224, 0.8782),
        "cgc": (0.7273, 0.8853),
        "ple": (0.7250, 0.8784),
        "random": (0.7271, 0.8849),
        "automtl": (0.7312, 0.8879),
    },
    "aliexpress_us": {
        "single_task": (0.7010, 0.8666),
        "shared_bottom": (0.7029, 0.8682),
        "mmoe": (0.7064, 0.8803),
        "cgc": (0.7107, 0.8700),
        "ple": (0.7101, 0.8801),
        "random": (0.7124, 0.8849),
        "automtl": (0.7152, 0.8880),
    },
}
"""AUC by data set, model and task. The paper prints the names "AutoML-R" and "AutoMLT"."""

TABLE_5: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "user_behavior": {
        "without_interaction": (0.7252, 0.7283, 0.7054, 0.8433),
        "homogeneous": (0.7241, 0.7293, 0.7055, 0.8441),
        "without_selection": (0.7235, 0.7274, 0.7034, 0.8428),
        "without_aux": (0.7245, 0.7277, 0.7054, 0.8417),
        "without_oles": (0.7220, 0.7266, 0.7017, 0.8413),
    },
    "ijcai": {
        "without_interaction": (0.7719, 0.8533),
        "homogeneous": (0.7708, 0.8539),
        "without_selection": (0.7710, 0.8523),
        "without_aux": (0.7697, 0.8531),
        "without_oles": (0.7672, 0.8501),
    },
    "aliexpress_nl": {
        "without_interaction": (0.7305, 0.8612),
        "homogeneous": (0.7313, 0.8607),
        "without_selection": (0.7303, 0.8600),
        "without_aux": (0.7311, 0.8592),
        "without_oles": (0.7298, 0.8579),
    },
}
"""AUC of AutoMTL's variants by data set, model and task."""

TABLE_4: Mapping[str, tuple[float, float]] = {
    "user_behavior": (0.8, 0.09),
    "ijcai": (1.8, 0.2),
    "aliexpress_nl": (10.0, 1.1),
    "aliexpress_es": (18.0, 2.2),
    "aliexpress_fr": (16.0, 1.8),
    "aliexpress_us": (16.5, 1.9),
}
"""GPU hours of a search, and of training the chosen network."""

ROWS: Mapping[str, tuple[str, ...]] = {"without_oles": ("darts", "darts_minus")}
"""Arms to compare with a row, if they differ from the row's name: the row "w/o OLES" has DARTS−,
and AutoMTL without early stopping is DARTS."""

NEAR = 0.01
"""The tolerance of a level: the paper does not print batch size and widths of experts."""


def cells(
    name: str,
    tasks: Sequence[str],
    space: str,
    arms: Sequence[str],
    counts: Sequence[int] = (),
    default: int = 0,
) -> Iterator[Published]:
    """The printed figures, to compare with those of a data set.

    Args:
        name: Name of the data set. Levels are judged only on the paper's own.
        tasks: Names of its tasks, that of AUC0 first.
        space: Name of its rows.
        arms: Names of the arms that were run.
        counts: Numbers of experts per task in Figure 5.
        default: The default number of experts per task.
    """
    for table, rows, other in (("Table 3", TABLE_3, OURS), ("Table 5", TABLE_5, OURS)):
        for row in next(iter(rows.values())):
            for arm in (arm for arm in ROWS.get(row, (row,)) if arm in arms):
                if name in rows:
                    yield from _levels_of_row(table, rows[name][row], name, tasks, space, arm)
                if arm == OURS or OURS not in arms:
                    continue
                # Table 3 shows gains of AutoMTL, Table 5 shows losses of its variants.
                first, less = (OURS, arm) if table == "Table 3" else (arm, other)
                sign = 1.0 if first == OURS else -1.0
                for metric, gain in _gains(rows, row, name, tasks, space):
                    yield Published(
                        name=f"{table}, {name}: {first} less {less}/{metric}",
                        value=round(sign * gain, 5),
                        metric=metric,
                        source=table,
                        run={"data": name, "arm": first, "less": less},
                        rule="sign",
                        gate=False,
                    )
    if OURS in arms:
        yield _cost_cell(name, len(tasks))
    yield from _drawn(name, arms, counts, default)


def _levels_of_row(
    table: str,
    printed: Sequence[float],
    name: str,
    tasks: Sequence[str],
    space: str,
    arm: str,
) -> Iterator[Published]:
    for task, value in zip(tasks, printed, strict=True):
        yield Published(
            name=f"{table}, {name}: {arm}/{task}/auc@{space}",
            value=value,
            metric=f"{task}/auc@{space}",
            source=table,
            run={"data": name, "arm": arm},
            tolerance=NEAR,
            gate=False,
        )


def _gains(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    row: str,
    name: str,
    tasks: Sequence[str],
    space: str,
) -> Iterator[tuple[str, float]]:
    """AutoMTL's AUC minus the row's: per task if both are printed, otherwise of the mean AUC."""
    if name in rows:
        pairs = zip(TABLE_3[name][OURS], rows[name][row], strict=True)
        for task, (ours, other) in zip(tasks, pairs, strict=True):
            yield f"{task}/auc@{space}", ours - other
        return
    gaps = [
        ours - other
        for data in rows
        if len(rows[data][row]) == len(tasks)
        for ours, other in zip(TABLE_3[data][OURS], rows[data][row], strict=True)
    ]
    if gaps:
        yield "mean_auc", statistics.fmean(gaps)


def _cost_cell(name: str, tasks: int) -> Published:
    ratios = {data: search / train for data, (search, train) in TABLE_4.items()}
    alike = [ratio for data, ratio in ratios.items() if len(TABLE_3[data][OURS]) == tasks]
    low, high = min(alike or ratios.values()), max(alike or ratios.values())
    return Published(
        name=f"Table 4, {name}: search by training",
        value=ratios.get(name, (low, high)),
        metric="search_by_training",
        source="Table 4",
        run={"data": name, "arm": OURS},
        gate=False,
        not_comparable="GPU hours there, CPU seconds here, and other numbers of epochs",
    )


def _drawn(
    name: str, arms: Sequence[str], counts: Sequence[int], default: int
) -> Iterator[Published]:
    """The paper's statements about its figures."""

    def cell(figure, what, metric, run, printed, value=1.0):
        return Published(
            name=f"{figure}, {name}: {what}",
            value=value,
            metric=metric,
            source=figure,
            run={"data": name, **run},
            rule="sign",
            printed=printed,
            gate=False,
        )

    if OURS not in arms:
        return
    if "without_aux" in arms:
        run = {"arm": OURS, "less": "without_aux"}
        yield cell(
            "Figure 3", "distance of tasks' weights, less without_aux", "distance", run, "wider"
        )
        yield cell("Figure 3", "distinct experts, less without_aux", "distinct", run, "more")
    for arm in (arm for arm in ("darts", "darts_minus") if arm in arms):
        what = f"skip connections, {arm} less {OURS}"
        yield cell("Figure 4", what, "skips", {"arm": arm, "less": OURS}, "more")
    for count in dict.fromkeys((*counts[:1], *counts[-1:])):
        if count == default:
            continue
        run = {"arm": OURS, "less": OURS, "count": count}
        what = f"MTL-Loss, {count} experts per task less {default}"
        yield cell("Figure 5", what, "mtl_loss", run, "higher")
