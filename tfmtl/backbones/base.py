"""What every backbone is: field embeddings in, one representation a task out."""

import abc
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.declare.problem import ProblemSpec


class Backbone(Arguments, keras.layers.Layer, abc.ABC):
    """Maps field embeddings `[batch, fields, dim]` to `{task: [batch, width]}`.

    Its trainable variables are the parameters shared between tasks, or a task's own below the
    towers; towers and logits are the heads' business. A subclass takes `tasks` first and all
    else by keyword, so that its `get_config` is its constructor.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`, without derived tasks.
    """

    separate_embeddings = False
    """Whether each task brings its own tables; the input is then `{task: fields}`."""

    tower_sides: Mapping[str, tuple[str, ...]] | None = None
    """The features' sides that each tower reads, by tower; the input is then `{tower: fields}`."""

    multi_scene = False
    """Whether `call` takes `scene`, `[batch]` int32, the row's index among `num_scenes`."""

    separate_scenes = False
    """Whether scenes share nothing, which asks for `multi_scene`.

    Tables are then the scene's own, all kernels are stacked by scene, representations are logits
    `[batch, 1]` to which the heads add the base rate alone, and a batch's update moves the scenes
    that have rows in it alone.
    """

    conv_semantics = "ctcvr_direct"
    """What the conversion head means unless the configuration says otherwise; see `Heads`."""

    tower_units: tuple[int, ...] = (128, 64)
    """Widths of the towers above, unless the configuration says otherwise."""

    default_terms: tuple[dict, ...] = ()
    """Configurations of the batch-level loss terms that belong to the method."""

    def __init__(self, tasks: Sequence[str], **kwargs):
        super().__init__(**kwargs)
        self.tasks = tuple(tasks)

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Refuses what does not fit together, before anything is built; nothing by default.

        Args:
            problem: The declaration.
            tower_units: Widths of the towers above.
        """

    def represent(self, fields, tasks: Sequence[str], **scene: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `{task: [batch, width]}` of some tasks, for serving.

        By default all are computed: where tasks share one product, as the gates of MMoE do, a
        part of one cannot be left out. A backbone whose tasks lie apart overrides this and
        `served_parts`. A backbone of many scenes is given `scene` as in `call`.
        """
        representations = self(fields, training=False, **scene)
        return {task: representations[task] for task in tasks}

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        """What `represent` of these tasks is made with; the whole backbone by default."""
        return [self]

    def last_shared(self) -> list[tf.Variable]:
        """Kernels of the last layer that every task reads, once built.

        None by default: what the tasks share is then the embedding. `gradnorm` compares the
        tasks' gradients here.
        """
        return []

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        """Variables whose first axis holds one block a task, beside each other, once built.

        With each the tasks of its blocks, in order. Only the task's representation depends on
        its block, which a graph that multiplies all blocks at once does not tell; none by default.
        Balancers leave a task's own variables out of its conflicts.
        """
        return []

    def fine_tuned(self) -> list[keras.layers.Layer]:
        """Layers that stand above the shared experts and gates: the attention between tasks.

        The second stage of meta-training goes on to train these beside the towers, with all below
        them held; none by default.
        """
        return []

    @abc.abstractmethod
    def call(self, fields, training=False):
        """Returns `{task: [batch, width]}` for `fields` `[batch, fields, dim]`."""


def flatten(fields: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, fields · dim]` for `[batch, fields, dim]`."""
    return tf.reshape(fields, [-1, fields.shape[1] * fields.shape[2]])
