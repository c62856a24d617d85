"""What an early-stage ranking model is made of (Wang et al., AdKDD 2023), as declarations.

    PROBLEM = ProblemSpec(
        features=(categorical("user_id", side="user"), categorical("ad_id", side="ad"), …),
        tasks=early_stage.tasks(),
        indicators=early_stage.INDICATORS,
        request_id="request_id",
    )
    EXPERIMENT = ExperimentConfig(
        problem=PROBLEM,
        model=Model(
            backbone={"name": "two_tower"},
            balancer={"name": "fixed", "task_weights": early_stage.loss_weights()},
        ),
        sampling=early_stage.augmentation("both"),
        …
    )

A row of the consolidated log is an ad that the funnel held for a request:

| `row_type` | the row is | click | final stage's pCTR | its CQS |
|---|---|---|---|---|
| R1 | an impression whose value uses the click rate | label | teacher | label |
| R2 | an impression whose value does not | not used | not used | label |
| R3 | an ad of the final stage that was not shown | pseudo-label | teacher | label |
| R4 | an ad that did not pass to the final stage | pseudo-label | teacher | label |

Rows of R3 and R4 count for the click rate only where their value uses it, as impressions do. An ad
that nobody saw is never a negative: `final_pctr` replaces its `click`, whatever the log has there.
"""

from collections.abc import Sequence

from tfmtl.declare.split import Sampling
from tfmtl.declare.tasks import DEFAULT_LOSSES, Loss, Task, binary, regression
from tfmtl.errors import SpecError, did_you_mean

TEACHER_MODES = ("separate", "shared", "both", "none")
INDICATORS = ("ctr_traffic", "is_impression")
SOURCES = ("both", "final", "early", "none")


def tasks(
    *,
    teacher: str = "separate",
    pseudo_labels: bool = True,
    pseudo_weight: float = 1.0,
    weight: str | None = None,
    cqs_loss: Loss = DEFAULT_LOSSES["regression"],
    click: str = "click",
    final_pctr: str = "final_pctr",
    final_cqs: str = "final_cqs",
    ctr_traffic: str = "ctr_traffic",
    is_impression: str = "is_impression",
) -> tuple[Task, ...]:
    """The click-through rate, the consolidated quality score and the distilled teacher.

    Args:
        teacher: Whose logit the final stage's pCTR teaches (eq. 4): `separate`, a third head that
            is not served (§3.1.2), by default, because only such a head fits "not used for
            serving"; `shared`, the CTR head itself, as the equation's legend says, which then
            learns a compromise between clicks and teacher; `both`; or `none`.
        pseudo_labels: Whether the CTR task learns from rows that were not shown.
        pseudo_weight: Weight of such a row in the CTR loss.
        weight: Column with the rows' weights in all losses, for a log that re-weighs its sample.
        cqs_loss: As `loss` in `regression`; the paper's is squared (eq. 3).
        click: Column with the click.
        final_pctr: Column with the final stage's click-through rate.
        final_cqs: Column with its consolidated quality score.
        ctr_traffic: Indicator of rows whose value uses the click-through rate.
        is_impression: Indicator of rows that were shown, and so have a click or none.

    Raises:
        SpecError: The mode is unknown.
    """
    _one_of("teacher", teacher, TEACHER_MODES)
    pseudo = final_pctr if pseudo_labels else None
    declared = [
        binary(
            "ctr",
            label=click,
            observed_if=ctr_traffic,
            labelled_if=is_impression,
            pseudo_label=pseudo,
            pseudo_weight=pseudo_weight,
            weight=weight,
        ),
        regression("cqs", label=final_cqs, loss=cqs_loss, weight=weight),
    ]
    for name, head in (("teacher", None), ("teacher_on_ctr", "ctr")):
        mode = "separate" if head is None else "shared"
        if teacher in (mode, "both"):
            declared.append(
                binary(
                    name,
                    label=final_pctr,
                    observed_if=ctr_traffic,
                    soft=True,
                    head=head,
                    served=False,
                    weight=weight,
                )
            )
    return tuple(declared)


def loss_weights(
    *, teacher: str = "separate", cqs: float = 1.5, distilled: float = 2.0
) -> dict[str, float]:
    """Weights of the tasks' losses (§3.2.3): 1 for the CTR, which the paper does not print.

    The paper's 1.5 and 2 were tuned on its own data; `tfmtl.tuning.loss_weights.tune_loss_weights`
    chooses them on yours. In mode `both` the two teachers share the weight.

    Args:
        teacher: As in `tasks`.
        cqs: Weight of the quality task; a robust `cqs_loss` is half as large near zero.
        distilled: Weight of the teacher.
    """
    _one_of("teacher", teacher, TEACHER_MODES)
    weights = {"ctr": 1.0, "cqs": cqs}
    if teacher in ("separate", "both"):
        weights["teacher"] = distilled / (2 if teacher == "both" else 1)
    if teacher in ("shared", "both"):
        weights["teacher_on_ctr"] = distilled / (2 if teacher == "both" else 1)
    return weights


def augmentation(
    source: str = "both",
    *,
    column: str = "row_type",
    final: float = 1.0,
    early: float = 1.0,
    final_rows: Sequence[str] = ("R3",),
    early_rows: Sequence[str] = ("R4",),
) -> Sampling:
    """Which ads that were not shown a model learns from (§3.2.2).

    The paper names final-stage ads in its introduction and early-stage ads in §3.2.2; `both` is
    the default, because without the latter recall falls (`benchmarks/README.md`).

    Args:
        source: `both`, `final`, `early` or `none`.
        column: Column with the row's type.
        final: Share kept of final-stage rows, where they are a source.
        early: Share kept of early-stage rows.
        final_rows: Their types.
        early_rows: Their types.

    Raises:
        SpecError: The source is unknown, or a share lies outside `[0, 1]`.
    """
    _one_of("source", source, SOURCES)
    kept = {
        **dict.fromkeys(final_rows, final if source in ("both", "final") else 0.0),
        **dict.fromkeys(early_rows, early if source in ("both", "early") else 0.0),
    }
    return Sampling(column=column, rates=kept)


def _one_of(argument: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SpecError(
            f"early stage: {argument}={value!r} is none of {list(known)}."
            f"{did_you_mean(str(value), known)}"
        )
