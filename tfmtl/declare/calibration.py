"""The settings of calibration: which calibrator is fitted after training, and for which tasks."""

import dataclasses

from tfmtl.declare.checks import check_settings, one_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import freeze

METHODS = ("platt", "temperature", "offset", "isotonic")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibrators of the served binary tasks, fitted on validation rows after training.

    Args:
        method: `platt`, `a·s + b` of the head's logit `s` (Platt, 1999); `temperature`, `s / T`;
            `offset`, `s + b`; or `isotonic`, a rising curve of straight lines through the observed
            rates. `platt` is our choice: validation rows have also chosen the epoch, which two
            parameters hardly mind.
        by_scene: One calibrator per task and scene, where the problem declares a scene that is a
            feature. A scene with fewer than 1,000 observed rows or 50 of either class, an unknown
            and a missing scene have the task's pooled calibrator. Without it, the pooled one alone.
        tasks: Tasks with a head of their own; by default all binary ones that serving needs. A
            product of two heads has no calibrator of its own: its factors have.

    Raises:
        SpecError: A setting has the wrong type or value.
    """

    method: str = "platt"
    by_scene: bool = True
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        freeze(self)
        check_settings("calibration.", self, {"method": one_of(METHODS)})

    def check_problem(self, problem: ProblemSpec) -> None:
        """Refuses tasks that cannot be calibrated.

        Raises:
            SpecError: A task is unknown or no binary one.
        """
        known = [task.name for task in problem.tasks if task.kind == "binary"]
        for name in self.tasks or ():
            if name not in known:
                raise SpecError(
                    f"calibration.tasks names {name!r}; binary tasks are {known}."
                    f"{did_you_mean(name, known)}"
                )
