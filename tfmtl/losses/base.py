"""What a loss per example is: a class with its own parameters, or a plain function.

A loss of a binary task is written once, from `log p` and `log(1 − p)`, and then fits a head with a
logit of its own and a head that is a product of probabilities (ESMM):

    @tfmtl.register("loss", "brier")
    class Brier(BinaryLoss):
        def from_logs(self, labels, log_p, log_rest):
            return tf.square(labels - tf.exp(log_p))

    binary("ctr", label="click", loss="brier")

Parameters are keyword-only arguments of the constructor, which states their defaults and checks
their values: `binary("ctr", label="click", loss={"name": "focal", "gamma": 1.0})`. Tests find a
registered loss by themselves and need one row of `SMALL` in `tests/losses/test_contract.py`.

A plain function `(labels, logits, *, …)` is a loss too, as `loss=my_function`. It says nothing of
log-probabilities, so a head that is a product refuses it.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import tensorflow as tf

from tfmtl import registry
from tfmtl.declare.tasks import Task
from tfmtl.errors import SpecError
from tfmtl.losses.per_example import check_vectors, hide, log1mexp

ExampleLoss = Callable[[tf.Tensor, Mapping[str, tf.Tensor]], tf.Tensor]
"""`(labels, output)` to losses, all `[batch]`; `output` is a task's part of `Heads`' outputs."""


class BinaryLoss(abc.ABC):
    """Loss of a probability, per example.

    Subclasses write `from_logs`, and `from_logits` only where a form of logits keeps more digits.
    """

    task_kind: ClassVar[str] = "binary"

    @abc.abstractmethod
    def from_logs(self, labels: tf.Tensor, log_p: tf.Tensor, log_rest: tf.Tensor) -> tf.Tensor:
        """Losses `[batch]` from log-probabilities.

        Args:
            labels: `[batch]`, each in `[0, 1]`; a soft label `y` has `y` parts of a positive and
                `1 − y` parts of a negative.
            log_p: `log p`, `[batch]`, negative.
            log_rest: `log(1 − p)`, `[batch]`, negative, with all its digits.
        """

    def from_logits(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Losses `[batch]` from logits `[batch]`; by `from_logs` if not overridden."""
        return self.from_logs(labels, tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits))

    def __call__(
        self, labels: tf.Tensor, logits: tf.Tensor, *, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Losses of labels and logits, all `[batch]`.

        Args:
            labels: Each in `[0, 1]`.
            logits: Of the same length.
            mask: True where the task is observed; what it hides may be NaN and has no gradient.

        Raises:
            ValueError: The shapes differ; `[batch, 1]` against `[batch]` would make a matrix.
        """
        labels, logits = _observed(labels, logits, mask)
        return _per_example(labels, self.from_logits(labels, logits))

    def of_log_prob(
        self, labels: tf.Tensor, log_prob: tf.Tensor, *, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Losses of labels and a log-probability such as a product's, all `[batch]`.

        With cross-entropy this is the loss of an entire-space model (Ma et al., SIGIR 2018).
        Where `log_prob` comes from `product_log_prob` on rows that hold NaN, give both the mask.

        Args:
            labels: Each in `[0, 1]`.
            log_prob: Negative, of the same length.
            mask: As in `__call__`.
        """
        check_vectors(labels=labels, log_prob=log_prob)
        labels = hide(tf.cast(labels, log_prob.dtype), mask)
        log_prob = hide(log_prob, mask, fill=-1.0)
        return _per_example(labels, self.from_logs(labels, log_prob, log1mexp(log_prob)))


class RegressionLoss(abc.ABC):
    """Loss of a real number, per example, in standard deviations of the training labels."""

    task_kind: ClassVar[str] = "regression"

    @abc.abstractmethod
    def from_predictions(self, labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """Losses `[batch]` from labels and predictions `[batch]`, both standardised."""

    def __call__(
        self, labels: tf.Tensor, predictions: tf.Tensor, *, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Losses of labels and predictions, all `[batch]`; arguments as in `BinaryLoss`."""
        labels, predictions = _observed(labels, predictions, mask)
        return _per_example(labels, self.from_predictions(labels, predictions))


def build(task: Task, *, product: bool = False) -> ExampleLoss:
    """Makes the loss that a task declares, as a function of its labels and its head's output.

    Args:
        task: The task. A regression's labels are given to the loss standardised.
        product: Whether the task's probability is a product of others, with a `log_prob` in its
            output.

    Raises:
        SpecError: The loss or a parameter is unknown; or the task is a product and the loss has
            no form on log-probabilities.

    Example:
        >>> from tfmtl.declare.tasks import binary
        >>> loss = build(binary("ctr", label="click", loss={"name": "focal", "gamma": 0.0}))
        >>> loss(tf.constant([1.0]), {"logit": tf.constant([0.0])}).numpy()
        array([0.6931], dtype=float32)
    """
    name = task.loss["name"]
    part = registry.get("loss", name)
    if not isinstance(part, type):
        registry.check("loss", task.loss)
        arguments = {key: value for key, value in task.loss.items() if key != "name"}
        loss: Any = functools.partial(_of_function, functools.partial(part, **arguments))
    else:
        loss = registry.build("loss", task.loss)
    if not product:
        return lambda labels, output: loss(labels, output["logit"])
    if not isinstance(loss, BinaryLoss):
        raise SpecError(
            f"task {task.name!r}: loss {name!r} has no form on log-probabilities, and the task's "
            "probability is a product of two heads, which has no logit of its own. Write the loss "
            "as a subclass of tfmtl.losses.BinaryLoss, use one of the library's, such as "
            "'cross_entropy', or give the task a head by Model(conv_semantics='ctcvr_direct')."
        )
    return lambda labels, output: loss.of_log_prob(labels, output["log_prob"])


def _of_function(
    function: Callable[..., tf.Tensor], labels: tf.Tensor, logits: tf.Tensor
) -> tf.Tensor:
    labels, logits = _observed(labels, logits, None)
    return _per_example(labels, function(labels, logits))


def _observed(
    labels: tf.Tensor, predictions: tf.Tensor, mask: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    check_vectors(labels=labels, predictions=predictions)
    return hide(tf.cast(labels, predictions.dtype), mask), hide(predictions, mask)


def _per_example(labels: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
    # A loss that has taken a mean by itself would be weighted and masked wrongly.
    check_vectors(labels=labels, losses=losses)
    return losses
