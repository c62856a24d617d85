"""What every backbone is: field embeddings in, one representation per task out."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.declare.problem import ProblemSpec
from tfmtl.layers.fields import Fields

T = TypeVar("T")


class Backbone(Arguments, keras.layers.Layer, abc.ABC):
    """Maps field embeddings `[batch, fields, dim]` to `{task: [batch, width]}`.

    Its trainable variables are those that tasks share, and those of single tasks below the
    towers. Towers and logits belong to the heads. A subclass takes `tasks` first and all
    else by keyword, so that its `get_config` is its constructor.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`, without derived tasks.
    """

    shares = True
    """Whether tasks share any variable."""

    rowwise_updates = False
    """Whether a batch trains only some rows of the variables: those of the scenes it has rows of.

    The model then makes Adam row-wise, since Keras' Adam moves all rows.
    """

    tower_sides: Mapping[str, tuple[str, ...]] | None = None
    """The features' sides that each tower reads, by tower; `None` without towers."""

    no_interaction = ""
    """Why `Model(interaction=…)` cannot stand below this backbone; empty where it can."""

    conv_semantics = "ctcvr_direct"
    """What the conversion head means unless the configuration says otherwise; see `Heads`."""

    tower_units: tuple[int, ...] = (128, 64)
    """Widths of the towers above, unless the configuration says otherwise."""

    default_terms: tuple[dict[str, Any], ...] = ()
    """Configurations of the batch-level loss terms that belong to the method."""

    fields: Fields | Mapping[str, Fields] | None = None
    """What is read, as `describe` received it; `None` before."""

    def __init__(self, tasks: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = tuple(tasks)

    @classmethod
    def check_declaration(cls, problem: ProblemSpec) -> None:
        """Refuses a problem that the backbone cannot read; nothing by default.

        Args:
            problem: The declaration.
        """

    @classmethod
    def derived(cls, problem: ProblemSpec, table_rows: Mapping[str, int]) -> dict[str, Any]:
        """Constructor arguments that follow from the declaration; none by default.

        Args:
            problem: The declaration.
            table_rows: Rows of each feature's table, by feature name.
        """
        return {}

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Refuses what does not fit together, before anything is built; nothing by default.

        Args:
            problem: The declaration.
            tower_units: Widths of the towers above.
        """

    def embeddings(self, make: Callable[..., T]) -> T | dict[str, T]:
        """Makes the embeddings whose fields the backbone reads; one of all features by default.

        Args:
            make: Makes one from its name, and from `sides`, `copies` and `lender` as `Embedding`
                takes them.

        Returns:
            One embedding, and `call` is given its fields; or several by name, and `call` is given
            `{name: fields}`.
        """
        return make("embedding")

    def describe(self, problem: ProblemSpec, fields: Fields | Mapping[str, Fields]) -> None:
        """Takes what the backbone will read, before it is built; keeps the fields by default.

        A backbone that treats some fields differently looks them up here, by name or role, and
        refuses a declaration without them.

        Args:
            problem: The declaration.
            fields: The fields of the embedding that `embeddings` made, or of each by name.
        """
        self.fields = fields

    def row_inputs(self, packed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What `call` and `represent` take of each row by keyword, besides its fields.

        Args:
            packed: Packed tensors.

        Returns:
            Tensors of `[batch, …]` by argument; none by default.
        """
        return {}

    def embed(self, embedding: Any, packed: Mapping[str, tf.Tensor]) -> tuple[Any, tf.Tensor]:
        """Returns the fields that the backbone reads, and `Σ‖e‖²` over the looked-up rows.

        Args:
            embedding: What `embeddings` made.
            packed: Packed tensors.
        """
        if not isinstance(embedding, Mapping):
            one, squares = embedding.embed(packed)
            return one, squares
        both = {name: each.embed(packed) for name, each in embedding.items()}
        fields = {name: of_name for name, (of_name, _) in both.items()}
        return fields, tf.add_n([squares for _, squares in both.values()])

    def prepare_heads(self, heads: Any) -> None:
        """Changes the heads above before they are built; nothing by default.

        Args:
            heads: The model's `Heads`.
        """

    def decayed(
        self, kernels: Sequence[tf.Variable], row_inputs: Mapping[str, tf.Tensor]
    ) -> list[tf.Tensor]:
        """What weight decay of a batch is on; all kernels by default.

        Args:
            kernels: The model's kernels, without tables.
            row_inputs: See `row_inputs`.
        """
        return list(kernels)

    def represent(
        self, fields: Any, tasks: Sequence[str], **row_inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns `{task: [batch, width]}` of some tasks, for serving.

        By default all tasks are computed: where tasks share one matrix product, as the gates of
        MMoE do, a part cannot be left out. A backbone with separate layers per task overrides this
        and `served_parts`.

        Args:
            fields: As in `call`.
            tasks: Names of the tasks.
            **row_inputs: As in `call`; see `row_inputs`.
        """
        representations = self(fields, training=False, **row_inputs)
        return {task: representations[task] for task in tasks}

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        """The layers that `represent` of these tasks uses; the whole backbone by default."""
        return [self]

    def last_shared(self) -> list[tf.Variable]:
        """Kernels of the last layer that every task reads, once built.

        None by default: the tasks then share the embedding. `gradnorm` compares the tasks'
        gradients here.
        """
        return []

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        """Variables whose first axis holds one block per task, once built; none by default.

        Returns each variable with the tasks of its blocks, in order. Only that task's
        representation depends on a block. TensorFlow's graph cannot show this where all blocks
        are multiplied at once, so it is declared here. Balancers such as PCGrad leave a block out
        of the conflicts between tasks.
        """
        return []

    def fine_tuned(self) -> list[keras.layers.Layer]:
        """Layers above the shared experts and gates, such as attention between tasks.

        The second stage of meta-training trains these and the towers, and keeps all layers below
        them fixed; none by default.
        """
        return []

    @abc.abstractmethod
    def call(self, fields: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns `{task: [batch, width]}` for `fields` `[batch, fields, dim]`."""


def flatten(fields: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, fields · dim]` for `[batch, fields, dim]`."""
    return tf.reshape(fields, [-1, fields.shape[1] * fields.shape[2]])
