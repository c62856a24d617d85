"""Towers and logits, and the links between tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from tfmtl.declare.conversions import check_semantics, direct_tasks, trained_tasks
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.tasks import BALANCED_SQRT
from tfmtl.layers.mlp import MLP
from tfmtl.losses.per_example import log1mexp, product_log_prob

Outputs = dict[str, dict[str, tf.Tensor]]


class Heads(keras.layers.Layer):
    """Maps `{task: [batch, width]}` to each task's logit and prediction `[batch]`.

    `conv_semantics` says what the conversion heads of a funnel (ctr, cvr, ctcvr) mean; papers
    differ in this and often do not say it:

    | `conv_semantics` | ctcvr is | trained |
    |---|---|---|
    | `ctcvr_direct` | a head of its own (AITM, MTReclib) | every task on its own space |
    | `cvr_click` | pCTR·pCVR, without a loss of its own (classic CVR) | ctr, cvr on clicks |
    | `esmm` | pCTR·pCVR (Ma et al., SIGIR 2018, eq. 1) | ctr and ctcvr on all rows, not cvr |
    | `mtms` | pCTR·pCVR (Tan et al., MTMS, eq. 2) | every task on its own space |
    | `mtms_literal` | the same | the same, but cvr on all rows |

    The equation of MTMS has its second loss over all impressions. This would train the conversion
    head on conversions per impression, and the product would be too small by the click-through
    rate. The text of the paper trains that head on clicks. `mtms` is the text, `mtms_literal` the
    equation.

    Products are computed in log space, where small probabilities keep their gradients.

    Args:
        problem: The declaration.
        tower_units: Widths of each task's tower below its logit.
        dropout: Share dropped after each tower layer.
        batch_norm: Whether tower layers are normalised.
        conv_semantics: As above. Without a funnel only `ctcvr_direct` has a meaning.

    Raises:
        SpecError: The problem has no funnel, or the name is unknown.
    """

    def __init__(
        self,
        problem: ProblemSpec,
        *,
        tower_units: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        batch_norm: bool = False,
        conv_semantics: str = "ctcvr_direct",
        **kwargs: Any,
    ) -> None:
        # Probabilities are float32 under a mixed-precision policy too; towers follow the policy.
        super().__init__(**{"dtype": "float32", **kwargs})
        check_semantics(problem, conv_semantics)
        self.problem, self.conv_semantics = problem, conv_semantics
        self.tasks = direct_tasks(problem, conv_semantics)
        self.trained = trained_tasks(problem, conv_semantics)
        self.towers = {
            t: MLP(tower_units, dropout=dropout, batch_norm=batch_norm, name=f"tower_{t}")
            for t in self.tasks
        }
        self.logits = {
            t: keras.layers.Dense(1, name=f"logit_{t}", dtype=self.dtype) for t in self.tasks
        }
        # Label means and deviations of regressions; see `adapt`.
        self.shift = {t: self._constant(f"shift_{t}", 0.0) for t in self._regressions()}
        self.scale = {t: self._constant(f"scale_{t}", 1.0) for t in self._regressions()}
        # Fitted after training, by `tfmtl.calibration`.
        self.calibrators: Any = None
        # Only the loss uses it, so it is not among `served_parts`.
        self.balance = {
            t: self._constant(f"balance_{t}", 1.0)
            for t in self.trained
            if problem.task(t).positive_weight == BALANCED_SQRT
        }

    def call(
        self,
        representations: Mapping[str, tf.Tensor],
        training: bool = False,
        served_only: bool = False,
        calibrated: bool = False,
        scene: tf.Tensor | None = None,
    ) -> Outputs:
        """Returns `{task: {"logit": [batch], "prediction": [batch]}}`.

        A product also has its `log_prob`. A regression's `logit` is in units of the training
        labels' standard deviation, its prediction in the label's own unit.

        Args:
            representations: `{task: [batch, width]}`.
            training: Whether dropout and normalisation train.
            served_only: Leaves out tasks that are not served, and does not compute them.
            calibrated: Whether the model's calibrators, if it has any, are applied: in predictions,
                and not in losses.
            scene: Scene ids `[batch]`, for calibrators by scene.
        """
        outputs: Outputs = {}
        calibrators = self.calibrators if calibrated else None
        for task in self.served_tasks() if served_only else self.tasks:
            hidden = self.towers[task](representations[task], training=training)
            logit = self.logits[task](hidden)[:, 0]
            if calibrators is not None and calibrators.calibrates(task):
                logit = calibrators(task, logit, scene)
            if task in self.shift:
                prediction = self.shift[task] + self.scale[task] * logit
            else:
                prediction = tf.sigmoid(logit)
            outputs[task] = {"logit": logit, "prediction": prediction}
        funnel = self.problem.funnel()
        if funnel is not None and self.conv_semantics != "ctcvr_direct":
            ctr, cvr, ctcvr = funnel
            log_prob = product_log_prob(outputs[ctr]["logit"], outputs[cvr]["logit"])
            outputs[ctcvr] = {
                "logit": log_prob - log1mexp(log_prob),
                "log_prob": log_prob,
                "prediction": tf.exp(log_prob),
            }
        elif funnel is not None and calibrators is not None:
            _keep_order(outputs, first=funnel[0], second=funnel[2])
        wanted = self.problem.served if served_only else self.problem.tasks
        return {task.name: outputs[task.head or task.name] for task in wanted}

    def is_product(self, task: str) -> bool:
        """Whether a task's probability is a product, with a `log_prob` and no logit of its own."""
        return (self.problem.task(task).head or task) not in self.tasks

    def labels_of(self, task: str) -> str:
        """The task whose labels and sample space train a task's logit.

        That is the task itself, but for the conversion head of `mtms_literal`.
        """
        funnel = self.problem.funnel()
        if self.conv_semantics == "mtms_literal" and funnel is not None and task == funnel[1]:
            return funnel[2]
        return task

    def served_tasks(self) -> tuple[str, ...]:
        """Tasks whose own logits the served predictions need, in order."""
        needed = {task.name for task in self.problem.served}
        funnel = self.problem.funnel()
        if funnel is not None and self.conv_semantics != "ctcvr_direct":
            needed |= set(funnel[:2])
        return tuple(task for task in self.tasks if task in needed)

    def served_parts(self) -> list[keras.layers.Layer | tf.Variable]:
        """The layers that the served tasks' predictions need, without those of other tasks."""
        kept = self.served_tasks()
        parts: list[keras.layers.Layer | tf.Variable] = []
        for of_task in (self.towers, self.logits, self.shift, self.scale):
            parts += [of_task[t] for t in kept if t in of_task]
        return parts + ([] if self.calibrators is None else [self.calibrators])

    def standardized(self, task: str, labels: tf.Tensor) -> tf.Tensor:
        """A regression's labels in units of the training labels' deviation."""
        return (labels - self.shift[task]) / self.scale[task]

    def class_weights(self, task: str, labels: tf.Tensor) -> tf.Tensor | None:
        """The factor of each row's loss by a binary task's class weights; `None` where all are 1.

        Args:
            task: A trained binary task.
            labels: `[batch]`, each in `[0, 1]`; a soft label mixes both weights.
        """
        declared = self.problem.task(task)
        positive: float | tf.Variable = self.balance.get(task, declared.positive_weight)
        negative = declared.negative_weight
        if task not in self.balance and positive == negative == 1:
            return None
        return labels * positive + (1 - labels) * negative

    def adapt(self, mean: NDArray[Any], std: NDArray[Any]) -> None:
        """Starts every head at the training rows' mean prediction.

        The first epoch then need not learn the base rate (our choice). Where classes are weighted
        the rate is that of weighted rows, at which a constant prediction has the least loss;
        `focal` starts there too. `balanced_sqrt` weights are set here, and stay at 1 where a
        class is missing. Call on a built layer.

        Args:
            mean: Mean label of each task on its own space, `[tasks]`; NaN is skipped.
            std: Standard deviation likewise.
        """
        for task, weight in self.balance.items():
            rate = mean[self.problem.task_names.index(self.labels_of(task))]
            weight.assign(np.sqrt((1 - rate) / rate) if 0 < rate < 1 else 1.0)
        for index, task in enumerate(self.problem.task_names):
            if task not in self.tasks or not np.isfinite(mean[index]):
                continue
            if task in self.shift:
                self.shift[task].assign(mean[index])
                self.scale[task].assign(std[index] if std[index] > 0 else 1.0)
            else:
                rate = float(np.clip(mean[index], 1e-6, 1 - 1e-6))
                start = np.log(rate) - np.log1p(-rate) + self._log_odds_of_weights(task)
                self.logits[task].bias.assign([start])

    def freeze_to_identity(self) -> None:
        """Makes each logit the representation `[batch, 1]` plus the base rate, and trains nothing.

        For a backbone that returns logits. Call before the layer is built, on heads without
        towers.
        """
        for logit in self.logits.values():
            logit.kernel_initializer = keras.initializers.Ones()
            logit.trainable = False

    def _log_odds_of_weights(self, task: str) -> float:
        if task not in self.trained:
            return 0.0
        declared = self.problem.task(task)
        positive = float(self.balance.get(task, declared.positive_weight))
        return float(np.log(positive) - np.log(declared.negative_weight))

    def _regressions(self) -> list[str]:
        return [t for t in self.tasks if self.problem.task(t).kind == "regression"]

    def _constant(self, name: str, value: float) -> tf.Variable:
        return self.add_weight(
            name=name, initializer=keras.initializers.Constant(value), trainable=False
        )


def _keep_order(outputs: Outputs, *, first: str, second: str) -> None:
    """Holds the second task's prediction at or below the first's.

    Heads that are calibrated apart may predict more conversions than clicks for a row.
    """
    if first in outputs and second in outputs:
        outputs[second] = {
            name: tf.minimum(outputs[second][name], outputs[first][name])
            for name in ("logit", "prediction")
        }
