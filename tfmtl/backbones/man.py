"""Multi-task Attention Network (Luo et al., 2022)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from absl import logging

from tfmtl.backbones.base import Backbone
from tfmtl.backbones.ple import PLE
from tfmtl.declare.conversions import loose_links
from tfmtl.declare.problem import ProblemSpec
from tfmtl.errors import did_you_mean
from tfmtl.layers.task_attention import TaskAttention, check_mode
from tfmtl.registry import register

DIRECTIONS = ("both", "forward")


@register("backbone", "man")
@keras.saving.register_keras_serializable(package="tfmtl")
class MAN(Backbone):
    """Experts as in PLE, and above them attention between adjacent tasks.

    Tasks are adjacent in the order of `tasks`: impression, click, conversion. The experts give
    each task `c_j`, and the towers read `u_j`:

    | `direction` | `u_j` |
    |---|---|
    | `both` | attention over `c_i` of the neighbours before and after, and `c_j` |
    | `forward` | `c_1` of the first task; attention over `u_{j-1}` and `c_j` of the others |

    The paper does not say which tasks are adjacent. `both` is the default because the first task
    gains as well. Every task then reads its neighbours as they are before any attention, so that
    the order of computation does not matter. A task between two has attention over each of
    them and takes the mean (our choice: the paper's attention is over two tasks, and a mean keeps
    the size whatever the number of neighbours). `forward` is a chain as in AITM: a task reads what
    the task before it has read from earlier tasks. Each ordered pair has its own weights. A single
    task has no attention.

    Without the attention this is `cgc`, or `ple` for several levels. The paper trains it with the
    balancer `uncertainty` in its form `paper_eq3`, and in two stages.

    Maps `[batch, fields, dim]` to `{task: [batch, expert_units[-1][-1]]}`.

    Args:
        tasks: Task names, in the order in which they are adjacent.
        num_specific: Experts of each task, in each level.
        num_shared: Shared experts, in each level.
        expert_units: Widths of each expert, level by level as in `PLE`; one level is CGC.
        mode: How attention scores; see `TaskAttention`.
        direction: As above.
        dropout: Share dropped after each expert layer.
        batch_norm: Whether expert layers are normalised.
        gate_hidden: Widths of each gate's own layers below its logits.
        gate_bias: Whether the gates' logits have a bias.

    Raises:
        ValueError: The mode or the direction is unknown, or `expert_units` is not a list of lists
            of widths.

    Example:
        >>> man = MAN(["ctr", "cvr"], expert_units=[(16, 8)])
        >>> {t: tuple(h.shape) for t, h in man(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 8), 'cvr': (2, 8)}
    """

    tower_units = (128, 16, 32)

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_specific: int = 4,
        num_shared: int = 4,
        expert_units: Sequence[Sequence[int]] = ((256, 128),),
        mode: str = "aitm",
        direction: str = "both",
        dropout: float = 0.0,
        batch_norm: bool = False,
        gate_hidden: Sequence[int] = (),
        gate_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        check_mode("man", mode)
        if direction not in DIRECTIONS:
            raise ValueError(
                f"man: direction={direction!r} is none of {list(DIRECTIONS)}."
                f"{did_you_mean(direction, DIRECTIONS)}"
            )
        self.experts = PLE(
            tasks,
            num_specific=num_specific,
            num_shared=num_shared,
            expert_units=expert_units,
            dropout=dropout,
            batch_norm=batch_norm,
            gate_hidden=gate_hidden,
            gate_bias=gate_bias,
            name="experts",
        )
        self.num_specific, self.num_shared = num_specific, num_shared
        self.expert_units = self.experts.expert_units
        self.mode, self.direction = mode, direction
        self.dropout, self.batch_norm = dropout, batch_norm
        self.gate_hidden, self.gate_bias = tuple(gate_hidden), gate_bias
        self.pairs = _pairs(self.tasks, direction)
        self.attention = self._attention()

    def _attention(self) -> list[TaskAttention]:
        if self.pairs and self.direction == "both":
            # All pairs read what is below the attention, so one layer computes all of them.
            return [TaskAttention(len(self.pairs), mode=self.mode, name="attention")]
        return [
            TaskAttention(1, mode=self.mode, name=f"attention_{target}") for _, target in self.pairs
        ]

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Warns of adjacent tasks of which the declaration does not say that one follows."""
        loose = loose_links(problem, self.tasks)
        if loose:
            logging.warning(
                "man: tasks are adjacent in the order of the declaration, but nothing there "
                "declares that %r needs %r. Attention between tasks that do not follow each other "
                "may cost more than it gives; put tasks that do side by side, or use 'ple'.",
                *reversed(loose[0]),
            )

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        of_task: dict[str, tf.Tensor] = self.experts(fields, training=training)
        if not self.pairs:
            return of_task
        if self.direction == "forward":
            return self._chained(of_task)
        sources = tf.stack([of_task[source] for source, _ in self.pairs], axis=1)
        targets = tf.stack([of_task[target] for _, target in self.pairs], axis=1)
        of_pair = tf.unstack(self.attention[0](sources, targets), axis=1)
        by_task: dict[str, list[tf.Tensor]] = {t: [] for t in self.tasks}
        for (_, target), attended in zip(self.pairs, of_pair, strict=True):
            by_task[target].append(attended)
        return {t: tf.add_n(each) / float(len(each)) for t, each in by_task.items()}

    def _chained(self, of_task: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        for link, (source, target) in zip(self.attention, self.pairs, strict=True):
            before, own = (of_task[t][:, tf.newaxis] for t in (source, target))
            of_task = {**of_task, target: link(before, own)[:, 0]}
        return of_task

    def last_shared(self) -> list[tf.Variable]:
        # Through attention a task also reads its neighbours' experts; these are read by all tasks.
        return self.experts.last_shared()

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        if self.direction == "forward":
            # Each link is a separate layer, and later tasks read its output: the graph shows which.
            return []
        targets = tuple(target for _, target in self.pairs)
        return [(v, targets) for layer in self.attention for v in layer.trainable_variables]

    def fine_tuned(self) -> list[keras.layers.Layer]:
        return list(self.attention)


def _pairs(tasks: Sequence[str], direction: str) -> list[tuple[str, str]]:
    """The adjacent tasks as (read, reader), by reader."""
    before = list(zip(tasks, tasks[1:], strict=False))
    if direction == "forward":
        return before
    after = [(target, source) for source, target in before]
    return sorted(before + after, key=lambda pair: tasks.index(pair[1]))
