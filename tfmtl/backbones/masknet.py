"""MaskNet (Wang, She and Zhang, DLP-KDD 2021): hidden layers multiplied by masks per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.layers.dropout import Dropout
from tfmtl.layers.experts import ParallelDense
from tfmtl.layers.mlp import MLP, layer_shares
from tfmtl.registry import register

FORMS = ("serial", "parallel")
# PyTorch's, as in FuxiCTR. Keras' 1e-3 is above the variance of embeddings at the start, so that
# its norm would hardly normalise.
EPSILON = 1e-5
_FUXICTR: Mapping[str, Any] = {
    "name": "masknet",
    "form": "serial",
    "units": (400, 400, 400),
    "num_blocks": 1,
    "block_units": 64,
    "reduction_ratio": 1.0,
    "embedding_norm": True,
    "block_norm": True,
    "dropout": 0.0,
}


@keras.saving.register_keras_serializable(package="tfmtl")
class MaskBlocks(Arguments, keras.layers.Layer):
    """The paper's MaskBlock; several blocks of one shape as one matrix product per layer.

    Maps `(embedded [batch, in], hidden [batch, width])` to `[batch, num · units]`. Of each block,
    on its own weights:

        mask = W₂ · ReLU(W₁ · embedded + b₁) + b₂        the instance-guided mask, [batch, width]
        out = ReLU(LayerNorm(W · (mask ⊙ hidden)))       [batch, units]

    Args:
        num: How many blocks read the same input.
        units: Width of each block's output.
        reduction_ratio: Width of the mask's own layer, as a multiple of `hidden`'s.
        norm: Whether the output is normalised, each block's by its own moments.
        dropout: Share of the output dropped in training.

    Raises:
        ValueError: `num`, `units` or the mask's layer is below 1, or the share is outside
            `[0, 1)`.

    Example:
        >>> MaskBlocks(3, 4)((tf.ones([2, 10]), tf.ones([2, 7]))).shape
        TensorShape([2, 12])
    """

    def __init__(
        self,
        num: int,
        units: int,
        *,
        reduction_ratio: float = 1.0,
        norm: bool = True,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layer_shares(self.name, (units,), dropout)
        if num < 1:
            raise ValueError(f"{self.name}: at least 1 block; got {num}.")
        self.num, self.units = num, units
        self.reduction_ratio, self.norm, self.dropout = reduction_ratio, norm, dropout

    def build(self, input_shape: Any) -> None:
        embedded, hidden = (tuple(shape) for shape in input_shape)
        width = int(hidden[-1] * self.reduction_ratio)
        if width < 1:
            raise ValueError(
                f"{self.name}: reduction_ratio={self.reduction_ratio} of a hidden width of "
                f"{hidden[-1]} leaves the mask's layer no unit; at least 1 / {hidden[-1]} does."
            )
        each = (None, self.num)
        self.mask_hidden = self._built(ParallelDense(self.num, width, name="mask_hidden"), embedded)
        self.mask = self._built(ParallelDense(self.num, hidden[-1], name="mask"), (*each, width))
        # Without a bias: the norm has an offset.
        self.dense = self._built(
            ParallelDense(self.num, self.units, use_bias=False, name="dense"), (*each, hidden[-1])
        )
        if self.norm:
            self.layer_norm = self._built(
                # One group per block: each block's layer norm, with its own gain and offset.
                keras.layers.GroupNormalization(self.num, epsilon=EPSILON, name="layer_norm"),
                (None, self.num * self.units),
            )
        self.drop = Dropout(self.dropout, name="dropout")
        super().build(input_shape)

    def _built(self, layer: Any, shape: tuple[int | None, ...]) -> Any:
        with tf.name_scope(layer.name):
            layer.build(shape)
        return layer

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        embedded, hidden = inputs
        mask = self.mask(tf.nn.relu(self.mask_hidden(embedded)))
        h = self.dense(mask * hidden[:, tf.newaxis])
        h = tf.reshape(h, [-1, self.num * self.units])
        if self.norm:
            h = self.layer_norm(h)
        return self.drop.rectified(h, training=training)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (tuple(input_shape[0])[0], self.num * self.units)


@register("backbone", "masknet")
@keras.saving.register_keras_serializable(package="tfmtl")
class MaskNet(Backbone):
    """MaskBlocks below each other, or beside each other under dense layers.

    Maps `[batch, fields, dim]` to `{task: [batch, units[-1]]}`. Every block's mask is made of the
    embeddings as they are; the first hidden vector is the embeddings, each field normalised for
    itself.

    With one task this is the paper's network: the logit comes straight from the last layer, hence
    `tower_units = ()`. With several, all of them share the one network (our choice: the paper has
    one task), and each has a logit of its own; give `Model(tower_units=…)` for towers between.

    `presets["fuxictr"]` (serial) and `presets["fuxictr_parallel"]` are the defaults of FuxiCTR
    2.1's configuration, as settings of `Model` and `Training`:
    `Model(**MaskNet.presets["fuxictr"]["model"])`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        form: `serial`: a block multiplies the output of the one before. `parallel`: all blocks
            multiply the normalised embeddings, and dense layers read their outputs, concatenated.
        units: Widths of the blocks (serial), or of the dense layers above them (parallel).
        num_blocks: Blocks of the parallel form.
        block_units: Width of each block of the parallel form.
        reduction_ratio: Width of each mask's own layer, as a multiple of the vector that the mask
            multiplies.
        embedding_norm: Whether each field is normalised, with a gain and offset of its own.
        block_norm: Whether each block's output is normalised.
        dropout: Share dropped after each block, and after each dense layer.

    Raises:
        SpecError: The form is unknown, or a serial network has no blocks.

    Example:
        >>> masknet = MaskNet(["ctr", "cvr"], form="parallel", num_blocks=3, units=(16,))
        >>> {t: tuple(h.shape) for t, h in masknet(tf.ones([2, 5, 8])).items()}
        {'ctr': (2, 16), 'cvr': (2, 16)}
    """

    tower_units: tuple[int, ...] = ()

    presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
        preset: {
            "model": {
                "backbone": {**_FUXICTR, "form": form},
                "dim": 40,
                "tower_units": (),
                "l2": 0.0,
            },
            "training": {"batch_size": 4096, "learning_rate": 1e-3, "epochs": 100, "patience": 2},
        }
        for preset, form in (("fuxictr", "serial"), ("fuxictr_parallel", "parallel"))
    }

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        form: str = "serial",
        units: Sequence[int] = (400, 400, 400),
        num_blocks: int = 1,
        block_units: int = 64,
        reduction_ratio: float = 1.0,
        embedding_norm: bool = True,
        block_norm: bool = True,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        if form not in FORMS:
            raise SpecError(
                f"masknet: form={form!r} is none of {list(FORMS)}.{did_you_mean(form, FORMS)}"
            )
        if form == "serial" and not units:
            raise SpecError("masknet: a serial network has one block per width; got units=().")
        self.form, self.units = form, tuple(units)
        self.num_blocks, self.block_units = num_blocks, block_units
        self.reduction_ratio, self.dropout = reduction_ratio, dropout
        self.embedding_norm, self.block_norm = embedding_norm, block_norm
        serial = form == "serial"
        shapes = [(1, width) for width in units] if serial else [(num_blocks, block_units)]
        self.blocks = [
            MaskBlocks(
                num,
                width,
                reduction_ratio=reduction_ratio,
                norm=block_norm,
                dropout=dropout,
                name=f"blocks_{i}",
            )
            for i, (num, width) in enumerate(shapes)
        ]
        self.mlp = MLP(() if serial else units, dropout=dropout, name="mlp")

    def build(self, input_shape: Any) -> None:
        if self.embedding_norm:
            _, fields, dim = input_shape
            self.field_norm = keras.layers.GroupNormalization(
                fields, epsilon=EPSILON, name="field_norm"
            )
            with tf.name_scope(self.field_norm.name):
                self.field_norm.build((None, fields * dim))
        super().build(input_shape)

    def call(self, fields: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        x = flatten(fields)
        h = self.field_norm(x) if self.embedding_norm else x
        for blocks in self.blocks:
            h = blocks((x, h), training=training)
        h = self.mlp(h, training=training)
        return {t: h for t in self.tasks}

    def last_shared(self) -> list[tf.Variable]:
        return [(self.mlp.dense or [self.blocks[-1].dense])[-1].kernel]
