"""One golden in the making: what is given to a part, and what the part makes of it."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

Arrays = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Any]
GIVEN, FORWARD, GRADIENTS = "given", "forward", "gradients"


class Record:
    """The arrays of one golden, by name.

    Args:
        name: `kind/name`; what is drawn follows from it and from the array's name alone, not from
            the order of drawing.
        stored: The golden that is compared with. What is given is then taken from it, so that no
            generator of random numbers has to stay as it is.
    """

    def __init__(self, name: str, stored: Mapping[str, np.ndarray] | None = None) -> None:
        self.name, self.arrays = name, {}
        self._stored = stored or {}

    def given(self, key: str, draw: Draw) -> np.ndarray:
        """What the part is given as `key`: stored, or drawn from a seed."""
        full = f"{GIVEN}/{key}"
        if full in self._stored:
            value = self._stored[full]
        else:
            value = np.asarray(
                draw(np.random.default_rng(zlib.crc32(f"{self.name}/{full}".encode())))
            )
            value = value.astype(np.float32) if value.dtype == np.float64 else value
        self._note(full, value)
        return value

    def normal(self, key: str, *shape: int) -> tf.Tensor:
        """Given numbers of a standard normal distribution."""
        return tf.constant(self.given(key, lambda rng: rng.normal(size=shape)))

    def weights(self, variables: Sequence[tf.Variable], under: str = "weights") -> None:
        """Gives variables their values: normal, moving variances positive."""
        for place, variable in enumerate(variables):
            name = variable.name.split("/")[-1].removesuffix(":0")
            value = self.given(
                f"{under}/{place:02d}", lambda rng, v=variable, n=name: _weight(rng, n, v.shape)
            )
            if value.shape != tuple(variable.shape):
                raise AssertionError(
                    f"{self.name}: weight {place} ({name}) has the shape {tuple(variable.shape)}, "
                    f"in the golden {value.shape}."
                )
            variable.assign(value)

    def forward(self, key: str, value: Any) -> None:
        """Notes a value."""
        self._note(f"{FORWARD}/{key}", np.asarray(value))

    def gradient(self, key: str, value: Any) -> None:
        """Notes a gradient, a sparse one as the dense one it stands for; none is noted as none."""
        if value is not None:
            self._note(f"{GRADIENTS}/{key}", np.asarray(tf.convert_to_tensor(value)))

    def layer(
        self,
        layer: keras.layers.Layer,
        inputs: Any,
        call: Callable[[Any, bool], Any],
    ) -> None:
        """Notes all about a layer.

        Its outputs in inference, its outputs and moving averages in training, and the gradients
        of a weighted sum of the latter with respect to weights and inputs.

        Args:
            layer: Built on the first call.
            inputs: A structure of float tensors.
            call: Calls the layer on such a structure, in training or not.
        """
        call(inputs, False)
        self.weights(layer.weights)
        for key, value in _named(call(inputs, False)).items():
            self.forward(f"inference/{key}", value)
        sources = _named(inputs)
        with tf.GradientTape() as tape:
            tape.watch(list(sources.values()))
            outputs = _named(call(inputs, True))
            # Each output counts by a number of its own, so that no two gradients cancel out.
            total = tf.add_n(
                [
                    tf.reduce_sum(value * self.normal(f"slopes/{key}", *value.shape))
                    for key, value in outputs.items()
                ]
            )
        weights = layer.trainable_weights
        found, by_input = tape.gradient(total, [weights, list(sources.values())])
        for key, value in outputs.items():
            self.forward(f"training/{key}", value)
        places = {variable.ref(): place for place, variable in enumerate(layer.weights)}
        for variable in layer.non_trainable_weights:
            self.forward(f"state/{places[variable.ref()]:02d}", variable)
        for variable, gradient in zip(weights, found, strict=True):
            self.gradient(f"weights/{places[variable.ref()]:02d}", gradient)
        for key, gradient in zip(sources, by_input, strict=True):
            self.gradient(f"inputs/{key}", gradient)

    def _note(self, key: str, value: np.ndarray) -> None:
        if key in self.arrays:
            raise ValueError(f"{self.name}: {key} is noted twice; give it another name.")
        self.arrays[key] = value


def _named(structure: Any) -> dict[str, tf.Tensor]:
    return dict(structure) if isinstance(structure, Mapping) else {"all": structure}


def _weight(rng: np.random.Generator, name: str, shape: Sequence[int]) -> np.ndarray:
    drawn = rng.normal(0.0, 0.5, tuple(shape))
    return 0.5 + np.abs(drawn) if "variance" in name else drawn
