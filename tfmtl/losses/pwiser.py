"""PWiseR as a term of the loss: whose scores, which labels, and what outlives a batch."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras as keras
from absl import logging

from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.losses.pairwise import check_options, groups, pwiser
from tfmtl.losses.per_example import hide
from tfmtl.registry import register

SILENT_BATCHES = 100
"""Batches in a row without an open gate after which `gate="literal"` warns."""


@register("term", "pwiser")
class PWiseR(keras.layers.Layer):
    """Ranks converted impressions above all others, by `pairwise.pwiser` (Durmus et al.).

    `loss = balanced + weight · Σ_heads PWiseR(head)` (eq. 1): the weight, the paper's λ, counts
    once, however many tasks there are and whatever the balancer makes of their losses. The
    `fixed` balancer takes their mean, so with two tasks a λ weighs twice as much against each
    cross-entropy as beside their sum, `{"name": "fixed", "reduction": "sum"}`.

    A model of clicks alone is trained with it by a task without a head or a loss of its own:

        tasks=(
            binary("ctr", label="click"),
            binary("bought", label="conversion", head="ctr", trained=False, served=False),
        )

    Rows count where the click is observed and, of clicked rows, the conversion too; with the
    click task's weights. Labels that are neither 0 nor 1, such as pseudo-labels, leave their
    row out. Groups are those of one batch, and where it is spread over devices those of one
    device's share of it: pairs of rows on two devices are not compared. Of a few conversions in
    ten thousand rows most shares hold none, which a queue mends.

    Args:
        tasks: Not needed here.
        problem: The declaration.
        weight: λ.
        heads: Tasks whose predictions are ranked, probabilities on the click task's rows; the
            click task alone by default, of which alone the paper argues.
        click: Task whose label is the click. By default the first of the problem's funnel, or
            the head of its one task that is not trained.
        conversion: Task whose label is the conversion; by default the last of the funnel, or
            that task.
        gate: As in `pwiser`. In training, `literal` warns where no pair came to its gate in 100
            batches in a row that had pairs, then when their number has doubled.
        normalize: As in `pwiser`.
        margin_click: As in `pwiser`.
        margin_no_click: As in `pwiser`.
        method: As in `pwiser`.
        pos_queue: How many scores of the last converted rows of earlier training steps stand
            beside the batch's own, so that a batch without a conversion is told something too
            (our choice, off). They are as old as they are, and have no gradient: such a batch
            only lowers the others. Checkpoints hold them. Over several devices each has a queue
            of its own, and checkpoints hold the first one's.

    Raises:
        SpecError: The tasks are not found or do not fit, or an option is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        problem: ProblemSpec,
        *,
        weight: float = 0.1,
        heads: Sequence[str] | None = None,
        click: str | None = None,
        conversion: str | None = None,
        gate: str = "hinge",
        normalize: str = "paper",
        margin_click: float = 0.3,
        margin_no_click: float = 0.3,
        method: str = "sorted",
        pos_queue: int = 0,
    ) -> None:
        super().__init__(name="pwiser", autocast=False)
        del tasks
        try:
            check_options(gate, normalize, method, margin_click, margin_no_click)
        except ValueError as error:
            raise SpecError(str(error)) from None
        for name, value in (("weight", weight), ("pos_queue", pos_queue)):
            if not 0 <= value < float("inf"):
                raise SpecError(f"pwiser: {name}={value} must be at least 0.")
        self.click, self.conversion = _labels(problem, click, conversion)
        self.heads = _heads(problem, self.click, heads)
        self.weight, self.gate, self.normalize = weight, gate, normalize
        self.margin_click, self.margin_no_click = margin_click, margin_no_click
        self.method, self.pos_queue = method, pos_queue
        if pos_queue:
            self.queue = self._state("queue", [len(self.heads), pos_queue])
            self.queue_weights = self._state("queue_weights", [pos_queue])
        if gate == "literal":
            self.silent = self._state("silent", [], tf.int32)

    def call(
        self,
        predictions: Mapping[str, tf.Tensor],
        labels: tf.Tensor,
        weights: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """The weighted loss of one batch, a scalar."""
        names = list(predictions)
        click, conversion, rows = self._rows(names, labels, weights)
        of = groups(click, conversion, rows)
        total = tf.add_n(
            [
                pwiser(
                    predictions[head],
                    click,
                    conversion,
                    rows,
                    gate=self.gate,
                    normalize=self.normalize,
                    margin_click=self.margin_click,
                    margin_no_click=self.margin_no_click,
                    method=self.method,
                    queue=self.queue[place] if self.pos_queue else None,
                    queue_weights=self.queue_weights if self.pos_queue else None,
                )
                for place, head in enumerate(self.heads)
            ]
        )
        if training and self.gate == "literal":
            self._watch(total, of)
        if training and self.pos_queue:
            self._remember(tf.stack([predictions[head] for head in self.heads]), of.converted)
        return self.weight * total

    def _rows(self, names, labels, weights):
        """Clicks, conversions and weights `[batch]`, 0 for a row of unknown labels."""
        at_click, at_conversion = names.index(self.click), names.index(self.conversion)
        click, conversion = labels[:, at_click], labels[:, at_conversion]
        bought = (weights[:, at_conversion] > 0) & _told(conversion)
        used = _told(click) & ((click < 0.5) | bought)
        return click, conversion, hide(weights[:, at_click], used)

    def _remember(self, scores, converted):
        """Lets the batch's conversions into the queue, and as many of the oldest out of it."""
        new = tf.boolean_mask(tf.stop_gradient(scores), converted > 0, axis=1)
        counts = tf.cast(tf.boolean_mask(converted, converted > 0), self.queue_weights.dtype)
        self.queue.assign(tf.concat([self.queue, new], axis=1)[:, -self.pos_queue :])
        self.queue_weights.assign(
            tf.concat([self.queue_weights, counts], axis=0)[-self.pos_queue :]
        )

    def _watch(self, total, of):
        """Counts batches whose pairs all stay below the gate, and warns of many in a row."""
        converted = tf.reduce_any(of.converted > 0)
        if self.pos_queue:
            converted |= tf.reduce_any(self.queue_weights > 0)
        has_pairs = converted & tf.reduce_any(of.click_only + of.no_click > 0)
        silent = tf.where(total > 0, 0, tf.where(has_pairs, self.silent + 1, self.silent))
        warn = has_pairs & (silent > 0) & (silent % SILENT_BATCHES == 0)
        self.silent.assign(silent)
        # Into Python in these batches alone; absl cannot be called from a graph.
        tf.cond(
            warn,
            lambda: tf.numpy_function(self._warn, [silent], tf.int32),
            lambda: silent,
        )

    def _warn(self, silent):
        hundreds = int(silent) // SILENT_BATCHES
        if hundreds & (hundreds - 1) == 0:
            logging.warning(
                "pwiser: in %d batches in a row no impression came %g above a conversion, so that "
                "gate='literal' added nothing; gate='hinge' has no such threshold.",
                silent,
                min(self.margin_click, self.margin_no_click),
            )
        return silent

    def _state(self, name, shape, dtype=tf.float32):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False
        )


def _told(label: tf.Tensor) -> tf.Tensor:
    return (label == 0.0) | (label == 1.0)


def _labels(problem: ProblemSpec, click: str | None, conversion: str | None) -> tuple[str, str]:
    """The names of the click's and of the conversion's task."""
    if click is None or conversion is None:
        funnel = problem.funnel()
        along = [t for t in problem.tasks if not t.trained]
        if funnel is not None:
            found = funnel[0], funnel[2]
        elif len(along) == 1 and along[0].head is not None:
            found = along[0].head, along[0].name
        else:
            raise SpecError(
                "pwiser: the tasks are no funnel (ctr, cvr, ctcvr) that would tell which labels "
                "are clicks and conversions; give click= and conversion=, of tasks "
                f"{list(problem.task_names)}. A label that no head predicts is declared as "
                "binary(…, head='ctr', trained=False, served=False)."
            )
        click, conversion = click or found[0], conversion or found[1]
    for argument, name in (("click", click), ("conversion", conversion)):
        task = _binary(problem, argument, name)
        if task.soft:
            raise SpecError(
                f"pwiser: {argument}={name!r} has soft labels, which are neither clicks nor "
                "conversions; name a task with labels of 0 and 1."
            )
    if problem.task(click).label == problem.task(conversion).label:
        raise SpecError(
            f"pwiser: click={click!r} and conversion={conversion!r} have one label, "
            f"{problem.task(click).label!r}; there would be no click without a conversion."
        )
    return click, conversion


def _heads(problem: ProblemSpec, click: str, heads: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the tasks whose predictions are ranked."""
    heads = (click,) if heads is None else heads
    if isinstance(heads, str) or not heads or len(set(heads)) != len(heads):
        raise SpecError(f"pwiser: heads are different tasks, as ('ctr',); got {heads!r}.")
    space = problem.task(click).observed_if
    for name in heads:
        task = _binary(problem, "heads", name)
        if task.observed_if != space or task.head is not None:
            raise SpecError(
                f"pwiser: heads={list(heads)}: {name!r} has no probability of its own on the "
                f"rows of {click!r}, as {click!r} has."
            )
    return tuple(heads)


def _binary(problem: ProblemSpec, argument: str, name: str):
    tasks = [t.name for t in problem.tasks if t.kind == "binary"]
    if name not in tasks:
        raise SpecError(
            f"pwiser: {argument} names {name!r}, which is no binary task; those are {tasks}."
            f"{did_you_mean(name, tasks)}"
        )
    return problem.task(name)
