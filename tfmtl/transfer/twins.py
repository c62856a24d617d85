"""Single-task twins: an experiment with one of its tasks alone, on the same rows."""

import dataclasses

import tensorflow as tf

from tfmtl.declare.experiment import Evaluation, ExperimentConfig
from tfmtl.declare.features import TargetEncoding
from tfmtl.declare.layout import LABELS, PSEUDO, WEIGHTS, has_pseudo
from tfmtl.declare.problem import ProblemSpec
from tfmtl.features.rows import Rows


def twin_of(experiment: ExperimentConfig, task: str) -> ExperimentConfig:
    """The experiment with one served task alone, all else the same.

    Our choices, so that the twin differs in the absence of other tasks and in nothing else:

    - The same backbone over the one task (MMoE keeps its experts and has one gate), and so the
      same widths of tables, layers and tower. The chain of AITM is then its bottom, and a level
      of CGC the task's own experts and the shared ones.
    - The same rows, in the same order, in the same batches. The task keeps its sample space:
      a post-click conversion rate learns from clicks alone, and is measured as `cvr/auc@click`.
    - A product has a head of its own (`ctcvr_direct`): there is nothing to multiply.
    - Balancer `fixed` at weight 1, and no loss terms: both are about several tasks.
    - Labels that teach the task's own logit (`head=`) stay; they are no other task.
    - The epoch is chosen by the experiment's `monitor` where the task has it, and by its own AUC
      (`mean_auc`) or, of a regression, loss where not.

    Args:
        experiment: One with several tasks.
        task: A served task.

    Raises:
        SpecError: There is no such task.
    """
    problem = _alone(experiment.problem, task)
    monitor = experiment.training.monitor
    binary = problem.task(task).kind == "binary"
    own = "mean_auc" if binary else "loss"
    if monitor not in (own, "loss") and not monitor.startswith(f"{task}/"):
        monitor = own
    names, weights = problem.task_names, experiment.model.balancer.get("task_weights") or {}
    kept = {name: weights[name] for name in names if name in weights}
    balancer = {"name": "fixed", **({"task_weights": kept} if kept and len(names) > 1 else {})}
    return dataclasses.replace(
        experiment,
        problem=problem,
        model=dataclasses.replace(
            experiment.model, conv_semantics="ctcvr_direct", balancer=balancer, terms=()
        ),
        training=dataclasses.replace(experiment.training, monitor=monitor),
        evaluation=Evaluation(),
        tuning=None,
        value=None,
        replay=None,
        mtms=None,
    )


class TaskRows:
    """Packed rows with the labels of some tasks alone, in the same order.

    Args:
        rows: Rows of all tasks of `whole`.
        whole: The declaration that the rows were packed by.
        part: One whose tasks are some of them.

    Raises:
        SpecError: `part` has a task that `whole` lacks.
    """

    def __init__(self, rows: Rows, whole: ProblemSpec, part: ProblemSpec) -> None:
        self.rows = rows
        self.columns = [whole.task_names.index(whole.task(name).name) for name in part.task_names]
        self.pseudo = has_pseudo(part)

    def batches(
        self, batch_size: int, *, seed: int | None = None, skip: int = 0
    ) -> tf.data.Dataset:
        """See `Rows.batches`."""
        return self.rows.batches(batch_size, seed=seed, skip=skip).map(self._narrow)

    def count(self) -> int:
        """How many rows there are."""
        return self.rows.count()

    def _narrow(self, packed):
        found = dict(packed)
        for name in (LABELS, WEIGHTS, PSEUDO):
            if name in packed:
                found[name] = tf.gather(packed[name], self.columns, axis=1)
        if not self.pseudo:
            found.pop(PSEUDO, None)
        return found


def _alone(problem: ProblemSpec, task: str) -> ProblemSpec:
    name = problem.task(task).name
    tasks = tuple(t for t in problem.tasks if t.name == name or (t.head == name and t.trained))
    labels = {t.label for t in tasks}
    # A space that was another task's label still says which rows count, by the rows' weights.
    spaces = [t.observed_if for t in tasks if t.observed_if and t.observed_if not in labels]
    kept = [i for i in problem.indicators if i not in labels]
    return dataclasses.replace(
        problem,
        tasks=tasks,
        features=tuple(_encoded(feature, name) for feature in problem.features),
        indicators=tuple(dict.fromkeys([*kept, *spaces])),
        drop_if=None,
    )


def _encoded(feature, task):
    # The packed rows hold the encodings; whose labels made them is past, and may not be declared.
    return (
        dataclasses.replace(feature, task=task) if isinstance(feature, TargetEncoding) else feature
    )
