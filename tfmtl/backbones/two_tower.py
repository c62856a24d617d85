"""Two towers of DLRM for early-stage ranking (Wang et al., AdKDD 2023, §3.1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tfmtl.backbones.base import Backbone, flatten
from tfmtl.declare.features import Feature
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.layers.mlp import MLP
from tfmtl.registry import register
from tfmtl.sequences.checks import reads_target, without_target

INTERACTIONS = ("joint", "dot")
T = TypeVar("T")


@register("backbone", "two_tower")
@keras.saving.register_keras_serializable(package="tfmtl")
class TwoTower(Backbone):
    """A user's and an ad's vector from separate towers, and what every task reads of both.

    Maps `{"user": [batch, fields, dim], "ad": [batch, fields, dim]}` to `{task: [batch, 3·width]}`.
    The towers share nothing below their vectors, so a user's vector is computed once per request
    and an ad's once per catalogue. Context features (the scene) belong to
    the request, and so to the user's tower.

    Args:
        tasks: Task names, in the order of `ProblemSpec.tasks`.
        user_units: Widths of the user tower's layers below its vector.
        ad_units: Widths of the ad tower's.
        width: Width of both vectors.
        interaction: `joint`: every task reads `[h_u ⊙ h_a ; h_u ; h_a]` through a tower of its
            own. `dot`: a task's logit is `⟨W_u h_u, W_a h_a⟩ + b`, which a nearest-neighbour
            index can serve; representations are then `[batch, width]` and towers have no layers.
        keep_fields: Whether a tower's layers read its fields beside their dot products. DLRM
            gives them only the products and the numbers' field; in a tower of few fields only a
            few numbers of an id's vector remain (our choice, measured: see
            `benchmarks/README.md`).
        dropout: Share dropped after each tower layer.
        batch_norm: Whether tower layers are normalised.

    Raises:
        SpecError: The interaction is unknown, or a width is not positive.

    Example:
        >>> towers = TwoTower(["ctr", "cqs"], user_units=(8,), ad_units=(8,), width=4)
        >>> h = towers({"user": tf.ones([2, 3, 8]), "ad": tf.ones([2, 2, 8])})
        >>> {t: tuple(x.shape) for t, x in h.items()}
        {'ctr': (2, 12), 'cqs': (2, 12)}
    """

    tower_sides = {"user": ("user", "context"), "ad": ("ad",)}
    tower_units: tuple[int, ...] = (32,)
    no_interaction = "whose towers have interactions of their own"

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        user_units: Sequence[int] = (128, 64),
        ad_units: Sequence[int] = (128, 64),
        width: int = 32,
        interaction: str = "joint",
        keep_fields: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, **kwargs)
        if interaction not in INTERACTIONS:
            raise SpecError(
                f"two_tower: interaction={interaction!r} is none of {list(INTERACTIONS)}."
                f"{did_you_mean(interaction, INTERACTIONS)}"
            )
        if width < 1:
            raise SpecError(f"two_tower: width={width}; at least 1 makes sense.")
        self.user_units, self.ad_units = tuple(user_units), tuple(ad_units)
        self.width, self.interaction, self.keep_fields = width, interaction, keep_fields
        self.dropout, self.batch_norm = dropout, batch_norm
        if interaction == "dot":
            self.tower_units = ()
        more: dict[str, Any] = {
            "keep_fields": keep_fields,
            "dropout": dropout,
            "batch_norm": batch_norm,
        }
        self.user = Tower(user_units, width, name="user", **more)
        self.ad = Tower(ad_units, width, name="ad", **more)

    def check(self, problem: ProblemSpec, tower_units: Sequence[int]) -> None:
        """Refuses a tower that would read nothing, and layers above a dot product.

        Raises:
            SpecError: No feature is of a tower's sides, or `interaction="dot"` has layers above.
        """
        if self.interaction == "dot" and tower_units:
            raise SpecError(
                f"two_tower: interaction='dot' with tower_units={tuple(tower_units)}: a logit "
                "above further layers is no dot product any more. Leave tower_units out, or use "
                "interaction='joint'."
            )
        for tower, sides in self.tower_sides.items():
            if not any(feature.side in sides for feature in problem.features):
                raise SpecError(
                    f"two_tower: no feature is of side {' or '.join(map(repr, sides))}, so the "
                    f"{tower} tower would read nothing. Declare sides as "
                    "categorical('ad_id', side='ad')."
                )

        for sequence in problem.sequences:
            _check_sequence(sequence, problem)
        self._check_shared(problem)

    def _check_shared(self, problem: ProblemSpec) -> None:
        """Refuses a column of the ad's that would share a table of the user's."""
        sides = {f.name: f.side for f in problem.features}
        for feature in problem.features:
            for of in _shares(feature):
                if feature.side == "ad" and sides[of] != "ad":
                    raise SpecError(
                        f"two_tower: {feature.name!r} of side 'ad' shares the table of {of!r}, of "
                        f"side {sides[of]!r}. The user's tower may read the ad's tables, not the "
                        "other way round: let the ad's feature own the table, and give of= to the "
                        "user's."
                    )

    def embeddings(self, make: Callable[..., T]) -> dict[str, T]:
        """Makes one embedding per tower, of the tower's sides.

        Where a user's column shares the table of an ad's feature, both towers read one variable.
        """
        ad = make("embedding_ad", sides=self.tower_sides["ad"])
        return {"user": make("embedding_user", sides=self.tower_sides["user"], lender=ad), "ad": ad}

    def build(self, input_shape: Any) -> None:
        if self.interaction == "dot":
            # One variable per task, so that a task that is not served is not exported.
            self.user_kernels, self.ad_kernels = (
                {t: self._kernel(f"{side}_kernel_{t}") for t in self.tasks}
                for side in ("user", "ad")
            )
        super().build(input_shape)

    def call(self, fields: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        return self.join(
            self.user(fields["user"], training=training), self.ad(fields["ad"], training=training)
        )

    def represent(
        self, fields: Mapping[str, tf.Tensor], tasks: Sequence[str], **row_inputs: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self.join(
            self.user(fields["user"], training=False),
            self.ad(fields["ad"], training=False),
            tasks=tasks,
        )

    def served_parts(self, tasks: Sequence[str]) -> list[keras.layers.Layer | tf.Variable]:
        parts = [self.user, self.ad]
        if self.interaction == "dot":
            parts += [of_side[t] for of_side in (self.user_kernels, self.ad_kernels) for t in tasks]
        return parts

    def join(
        self, user: tf.Tensor, ad: tf.Tensor, *, tasks: Sequence[str] | None = None
    ) -> dict[str, tf.Tensor]:
        """What tasks read of vectors `[batch, width]`, either of which may be `[1, width]`.

        Args:
            user: Users' vectors.
            ad: Ads' vectors.
            tasks: Which tasks; all by default.
        """
        tasks = self.tasks if tasks is None else tuple(tasks)
        if self.interaction == "dot":
            # One matrix product per tower for all tasks.
            users = self._crossed(user, self.user_kernels, tasks)
            ads = self._crossed(ad, self.ad_kernels, tasks)
            return dict(zip(tasks, tf.unstack(users * ads, axis=1), strict=True))
        product = user * ad
        both = [product, user + tf.zeros_like(product), ad + tf.zeros_like(product)]
        joint = tf.concat(both, axis=1)
        return {t: joint for t in tasks}

    def _kernel(self, name: str) -> tf.Variable:
        shape = [self.width, self.width]
        return self.add_weight(name=name, shape=shape, initializer="glorot_uniform")

    def _crossed(
        self, vectors: tf.Tensor, kernels: Mapping[str, tf.Variable], tasks: Sequence[str]
    ) -> tf.Tensor:
        crossed = tf.matmul(vectors, tf.concat([kernels[t] for t in tasks], axis=1))
        return tf.reshape(crossed, [-1, len(tasks), self.width])

    def last_shared(self) -> list[tf.Variable]:
        return [self.user.vector.kernel, self.ad.vector.kernel]

    def own_blocks(self) -> list[tuple[tf.Variable, tuple[str, ...]]]:
        if self.interaction != "dot":
            return []
        return [(k[t], (t,)) for k in (self.user_kernels, self.ad_kernels) for t in self.tasks]


def _check_sequence(sequence: SequenceFeature, problem: ProblemSpec) -> None:
    """Refuses a pooling that would need both towers."""
    if not reads_target(sequence):
        return
    tower = ("ad",) if sequence.side == "ad" else ("user", "context")
    for event in sequence.events:
        target = next((f for f in problem.features if f.name == event.of), None)
        if target is not None and target.side not in tower:
            what = (
                f"search={sequence.search!r}"
                if sequence.search is not None
                else f"pooling={sequence.pooling['name']!r}"
            )
            raise SpecError(
                f"two_tower: sequence {sequence.name!r} of side {sequence.side!r} has {what}, "
                f"which compares events with {target.name!r} of side {target.side!r}. A tower is "
                f"served from its own side alone. Take a pooling of {without_target()}."
            )


def _shares(feature: Feature) -> list[str]:
    """The features whose tables a feature reads."""
    if isinstance(feature, SequenceFeature):
        return [str(e.of) for e in feature.events if e.of is not None and e.share == "table"]
    of = getattr(feature, "of", None)
    return [] if of is None else [of]


class Tower(keras.layers.Layer):
    """Maps fields `[batch, fields, dim]` to a vector `[batch, width]`.

    DLRM (Naumov et al., 2019): the dot product of every two fields, above the numbers' field,
    which the embedding puts last, through dense layers. The last layer is linear.
    """

    def __init__(
        self,
        units: Sequence[int],
        width: int,
        *,
        keep_fields: bool,
        dropout: float,
        batch_norm: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keep_fields = keep_fields
        self.mlp = MLP(units, dropout=dropout, batch_norm=batch_norm, name="mlp")
        self.vector = keras.layers.Dense(width, name="vector")

    def call(self, fields: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[batch, width]`."""
        kept = flatten(fields) if self.keep_fields else fields[:, -1]
        h = tf.concat([kept, dot_products(fields)], axis=1)
        return self.vector(self.mlp(h, training=training))


def dot_products(fields: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, fields·(fields − 1)/2]`: the products above the Gram matrix's diagonal."""
    count = fields.shape[1]
    rows, columns = np.triu_indices(count, k=1)
    gram = tf.reshape(tf.matmul(fields, fields, transpose_b=True), [-1, count * count])
    return tf.gather(gram, rows * count + columns, axis=1)
