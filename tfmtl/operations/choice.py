"""Choice blocks: a layer that is a weighted sum of candidates while one of them is searched for."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl import registry
from tfmtl.errors import SpecError
from tfmtl.operations.base import Operation
from tfmtl.operations.candidates import Candidate, operation


@dataclasses.dataclass(frozen=True)
class Weights:
    """What is trained of one candidate of one block.

    Args:
        block: `interaction`, `pooling`, or `hidden_0` and so on.
        label: The candidate's.
        copies: Experts whose weights these are: every variable's first axis; `None` where the
            variables are one operation's.
        variables: In the order in which the operation made them.
        expert: The one expert whose operation it is, where an operation knows nothing of copies.
    """

    block: str
    label: str
    copies: int | None
    variables: list[tf.Variable]
    expert: int | None = None


class Choice(keras.layers.Layer):
    """The sum of all candidates' outputs, each by its weight.

    Maps what the candidates read, and their weights, to what one of them returns; with `num`,
    `[num, batch, width]`. Candidates of one class are computed together, see
    `tfmtl.operations.Operation.mixture`, and copies are computed side by side where the operation
    takes `num`; one that does not is made `num` times.

    Args:
        kind: `interaction`, `pooling` or `hidden`.
        candidates: A label and a registered operation each.
        num: Copies side by side, of a pooling or a hidden operation.
        width: Width of the vectors that a pooling returns; left to it if not given.

    Raises:
        SpecError: There are no candidates, two have one label, or an operation is unknown.

    Example:
        >>> choice = Choice("hidden", [("skip", {"name": "skip"}), ("gate", {"name": "gate"})])
        >>> choice(tf.ones([2, 4]), tf.constant([1.0, 0.0])).numpy().tolist()
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        kind: str,
        candidates: Sequence[Candidate],
        *,
        num: int | None = None,
        width: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_candidates(kind, candidates)
        self.kind, self.num, self.width = kind, num, width
        self.labels = [label for label, _ in candidates]
        self.layers = [self._layer(candidate) for candidate in candidates]
        classes: dict[type, list[int]] = {}
        for i, layer in enumerate(self.layers):
            classes.setdefault(type(layer), []).append(i)
        self._groups = list(classes.values())

    def _layer(self, candidate: Any) -> Any:
        label, config = candidate
        if self.width is not None and takes(self.kind, config, "width"):
            config = {"width": self.width, **config}
        if self.num is None or takes(self.kind, config, "num"):
            return operation(self.kind, (label, config), num=self.num)
        return Apart(self.kind, [operation(self.kind, (label, config)) for _ in range(self.num)])

    def build(self, input_shape: Any) -> None:
        for layer in self.layers:
            # The name scope that a call would use: the variables' paths name block and candidate.
            with tf.name_scope(layer.name):
                layer.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, weights: tf.Tensor, training: bool = False) -> tf.Tensor:
        columns, mixed = tf.unstack(weights, axis=-1), []
        for group in self._groups:
            layers = [self.layers[i] for i in group]
            mixture = getattr(type(layers[0]), "mixture", Operation.mixture)
            of_group = tf.stack([columns[i] for i in group], axis=-1)
            mixed.append(mixture(layers, inputs, of_group, training))
        return tf.add_n(mixed)

    def weights_by_candidate(self, block: str) -> list[Weights]:
        """The candidates' trainable variables, without those of candidates that have none.

        Args:
            block: The block's name, as it stands in the result.
        """
        weights: list[Weights] = []
        for label, layer in zip(self.labels, self.layers, strict=True):
            if isinstance(layer, Apart):
                weights += [
                    Weights(block, label, None, list(copy.trainable_variables), expert)
                    for expert, copy in enumerate(layer.layers)
                ]
            else:
                weights.append(Weights(block, label, self.num, list(layer.trainable_variables)))
        return [each for each in weights if each.variables]


class Apart(Operation):
    """Layers without an argument `num`, one per copy.

    Maps what a pooling or a hidden operation with `num` maps, one copy after the other: fields
    that all read, or `[copies or 1, batch, width]`, to `[copies, batch, width]`.

    Args:
        kind: `pooling` or `hidden`.
        layers: One per copy.
    """

    def __init__(self, kind: str, layers: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.layers = kind, list(layers)

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape)
        for i, layer in enumerate(self.layers):
            with tf.name_scope(f"{layer.name}_{i}"):
                layer.build(shape if self.kind == "pooling" else shape[1:])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        outputs = []
        for i, layer in enumerate(self.layers):
            of_copy = inputs
            if self.kind == "hidden":
                of_copy = inputs[i if inputs.shape[0] > 1 else 0]
            outputs.append(layer(of_copy, training=training))
        return tf.stack(outputs)


def takes(kind: str, config: Mapping[str, Any], argument: str) -> bool:
    """Whether a registered operation has an argument of this name."""
    registry.check(kind, config)
    part = registry.get(kind, config["name"])
    return argument in inspect.signature(getattr(part, "__init__", part)).parameters


def check_candidates(kind: str, candidates: Sequence[Candidate]) -> None:
    """Refuses a block without candidates, with two of one label, or with a `/` in one.

    Raises:
        SpecError: The message says which.
    """
    labels = [label for label, _ in candidates]
    if not labels:
        raise SpecError(f"no candidates of kind {kind!r}; a block needs one at least.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SpecError(
            f"candidates of kind {kind!r} have the labels {twice} more than once; in the "
            "architecture that a search finds, a label names its candidate. Give each another."
        )
    parted = [label for label in labels if "/" in label]
    if parted:
        raise SpecError(
            f"candidates of kind {kind!r} have a '/' in {parted}; the files of a search name "
            "an operation as block/label/expert, so leave it out of labels."
        )
