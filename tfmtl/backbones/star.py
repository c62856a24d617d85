"""STAR, the star topology adaptive recommender (Sheng et al., CIKM 2021)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tfmtl.arguments import Arguments
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.backbones.scenes import ReadsScene
from tfmtl.layers.dropout import Dropout
from tfmtl.layers.grouped import Tiles, block_rows, grouped_matmul, tiles_of
from tfmtl.layers.mlp import MLP, layer_shares
from tfmtl.layers.partitioned_norm import PartitionedNorm
from tfmtl.registry import register


@keras.saving.register_keras_serializable(package="tfmtl")
class StarNetwork(Arguments, keras.layers.Layer):
    """The star topology fully connected network (section 3.3), ReLU after each layer.

    Maps `[batch, in]` and the `Tiles` of the rows' scenes to `[batch, units[-1]]`. A layer's
    weights are the shared ones times the scene's, its biases the sum (eq. 6):

        W*_scene = W ⊗ (1 + Δ_scene)        b*_scene = b + b_scene

    `Δ` (the paper's scene weights less 1) and `b_scene` start at zero, where only the shared
    weights count, and weight decay pulls a scene back to them. The scene's factors of the linear
    layer above the network multiply its last output, which is the same product.

    Args:
        num_scenes: How many scenes there are.
        units: Widths of the layers.
        dropout: Share dropped after each layer.

    Raises:
        ValueError: A width is not positive, or the share is outside `[0, 1)`.

    Example:
        >>> tiles = tiles_of(tf.constant([0, 2]))
        >>> StarNetwork(3, (16, 8))(tf.ones([2, 5]), tiles).shape
        TensorShape([2, 8])
    """

    def __init__(
        self, num_scenes: int, units: Sequence[int], *, dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        layer_shares(self.name, units, dropout)
        self.num_scenes, self.units, self.dropout = num_scenes, tuple(units), dropout

    def build(self, input_shape: Any) -> None:
        width = tuple(input_shape)[-1]
        self.kernels, self.scene_kernels, self.biases, self.scene_biases = [], [], [], []
        for i, units in enumerate(self.units):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{i}", shape=(width, units), initializer="glorot_uniform"
                )
            )
            self.scene_kernels.append(
                self._neutral(f"scene_kernel_{i}", (self.num_scenes, width, units))
            )
            self.biases.append(self._neutral(f"bias_{i}", (units,)))
            self.scene_biases.append(self._neutral(f"scene_bias_{i}", (self.num_scenes * units,)))
            width = units
        self.scene_readout = self._neutral("scene_readout_kernel", (self.num_scenes, width))
        self.drops = [Dropout(self.dropout) for _ in self.units]
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, tiles: Tiles, training: bool = False) -> tf.Tensor:
        h = inputs
        for i, units in enumerate(self.units):
            kernels = self.kernels[i] * (1.0 + tf.gather(self.scene_kernels[i], tiles.present))
            biases = self.biases[i] + block_rows(self.scene_biases[i], tiles.present, units)
            h = grouped_matmul(h, kernels, tiles) + tf.gather(biases, tiles.of_row)
            h = self.drops[i].rectified(h, training=training)
        readout = 1.0 + tf.gather(self.scene_readout, tiles.present)
        return h * tf.gather(readout, tiles.of_row)

    def _neutral(self, name: str, shape: Any) -> tf.Variable:
        return self.add_weight(name=name, shape=shape, initializer="zeros")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*tuple(input_shape)[:-1], self.units[-1])


@register("backbone", "star")
@keras.saving.register_keras_serializable(package="tfmtl")
class STAR(ReadsScene, Backbone):
    """One shared network, and per scene a factor of each of its weights.

    Maps `[batch, fields, dim]` and each row's scene to `{task: [batch, units[-1] +
    aux_units[-1]]}`. Every task has a star network and an auxiliary network of its own over the
    shared tables (the paper has one task; so does ESMM share). The auxiliary one reads the fields
    as they are, of which the scene's embedding is one, and the star network reads them
    normalised by scene.

    The paper's logit is the sum of the star network's and the auxiliary network's, `s_m + s_a`.
    Here it is that sum because one linear layer lies above both last hidden layers side by side,
    `[h_m ; h_a]·[w_m ; w_a] + b = (h_m·w_m) + (h_a·w_a) + b`; hence `tower_units = ()`. Scene
    factors of `w_m` lie in the star network; a scene's own part of `b` is left to the auxiliary
    network (our choice: its bias would be a second one of the kind).

    A scene without training rows, such as an unknown one, keeps factors of 1 and offsets of 0: its
    predictions come from what all scenes share, moments included.

    Its baselines: `per_scene`, where scenes share nothing, and any other backbone where the scene
    is a feature like others, such as `mmoe`.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        num_scenes: How many scenes there are; a model derives it from the declaration.
        units: Widths of each star network.
        aux_units: Widths of each auxiliary network.
        partitioned_norm: Whether the fields are normalised by the moments of their scene; see
            `PartitionedNorm`, which asks for several rows of a scene in a batch.
        dropout: Share dropped after each layer.

    Example:
        >>> star = STAR(["ctr", "cvr"], num_scenes=3, units=(16,), aux_units=(4,))
        >>> representations = star(tf.ones([2, 5, 8]), scene=tf.constant([0, 2]))
        >>> {t: tuple(h.shape) for t, h in representations.items()}
        {'ctr': (2, 20), 'cvr': (2, 20)}
    """

    tower_units = ()

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_scenes: int,
        units: Sequence[int] = (256, 128, 64),
        aux_units: Sequence[int] = (64, 32),
        partitioned_norm: bool = True,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        self.num_scenes, self.units, self.aux_units = num_scenes, tuple(units), tuple(aux_units)
        self.partitioned_norm, self.dropout = partitioned_norm, dropout
        self.norm = PartitionedNorm(num_scenes, name="norm") if partitioned_norm else None
        self.stars = {
            t: StarNetwork(num_scenes, units, dropout=dropout, name=f"star_{t}") for t in self.tasks
        }
        self.auxiliary = {
            t: MLP(aux_units, dropout=dropout, name=f"auxiliary_{t}") for t in self.tasks
        }

    def call(  # type: ignore[override]
        self, fields: tf.Tensor, scene: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        return self._represented(fields, scene, self.tasks, training)

    def represent(
        self, fields: tf.Tensor, tasks: Sequence[str], **row_inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._represented(fields, row_inputs["scene"], tasks, False)

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        shared = [] if self.norm is None else [self.norm]
        return shared + [of_task[t] for of_task in (self.stars, self.auxiliary) for t in tasks]

    def _represented(
        self, fields: tf.Tensor, scene: tf.Tensor, tasks: Sequence[str], training: bool
    ) -> dict[str, tf.Tensor]:
        x, tiles = flatten(fields), tiles_of(scene)
        normed = x if self.norm is None else self.norm(x, tiles, training=training)
        return {
            t: tf.concat(
                [
                    self.stars[t](normed, tiles, training=training),
                    self.auxiliary[t](x, training=training),
                ],
                axis=1,
            )
            for t in tasks
        }
