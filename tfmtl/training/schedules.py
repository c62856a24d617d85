"""The learning rate over the steps of a run: warm-up, then a decay."""

from typing import Any, TypeAlias

import tensorflow as tf
import tf_keras as keras

from tfmtl.declare.training import Training

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="tfmtl")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`rate · min(1, (t + 1) / w) · g`, with `t` updates done and `w` updates of warm-up.

    After the warm-up `u = (t − w) / (T − w)` runs from 0 to 1 over the planned updates `T`, and `g`
    with the floor `f` is by `decay`:

    - `none`: 1
    - `cosine` (Loshchilov and Hutter, ICLR 2017, eq. 5): `½ (1 + cos πu) (1 − f) + f`
    - `linear`: `1 − (1 − f) u`
    - `inverse_sqrt` (Vaswani et al., NeurIPS 2017, sec. 5.3): `√(w / max(t, w))`

    Args:
        rate: The highest rate.
        steps: Planned updates, `T`; from then on `g` stays at its last value.
        decay: As above.
        warmup: Updates of warm-up, `w`; 0 for none.
        floor: The last rate as a share of `rate`, `f`, for `cosine` and `linear`.
    """

    def __init__(
        self, rate: float, *, steps: int, decay: str = "none", warmup: int = 0, floor: float = 0.0
    ) -> None:
        super().__init__()
        self.rate, self.steps, self.decay = rate, steps, decay
        self.warmup, self.floor = warmup, floor

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate of the update after `step` updates, float32."""
        # In float64: a float32 holds the step itself no longer exactly after 2**24 of them.
        t = tf.cast(step, tf.float64)
        rise = tf.minimum((t + 1.0) / max(self.warmup, 1), 1.0)
        return tf.cast(self.rate * rise * self._factor(t), tf.float32)

    def _factor(self, t: tf.Tensor) -> tf.Tensor:
        if self.decay == "none":
            return tf.ones_like(t)
        if self.decay == "inverse_sqrt":
            return tf.sqrt(self.warmup / tf.maximum(t, self.warmup))
        left = max(self.steps - self.warmup, 1)
        u = tf.clip_by_value((t - self.warmup) / left, 0.0, 1.0)
        if self.decay == "linear":
            return 1.0 - (1.0 - self.floor) * u
        half = tf.constant(3.141592653589793, tf.float64) * u
        return 0.5 * (1.0 + tf.cos(half)) * (1.0 - self.floor) + self.floor

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "rate": self.rate,
            "steps": self.steps,
            "decay": self.decay,
            "warmup": self.warmup,
            "floor": self.floor,
        }


def rate_over(rate: float, settings: Training, steps: int) -> Rate:
    """A learning rate as the settings have it change; a number where it does not.

    Args:
        rate: The highest rate.
        settings: `decay`, `decay_floor` and `warmup`.
        steps: Planned updates of all epochs. Early stopping cuts them short; the curve does not
            know.
    """
    share = isinstance(settings.warmup, float)
    warmup = round(settings.warmup * steps) if share else int(settings.warmup)
    if settings.decay == "none" and not warmup:
        return rate
    return WarmupDecay(
        rate, steps=steps, decay=settings.decay, warmup=warmup, floor=settings.decay_floor
    )
