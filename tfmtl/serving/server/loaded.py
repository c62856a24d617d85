"""A SavedModel that was loaded from its folder, and its signatures.

It is loaded as TensorFlow Serving loads it: a graph in a session, whose signatures name tensors.
A session gives its memory back when it is closed, which functions of `tf.saved_model.load` do not.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow_serving.apis import prediction_log_pb2

from tfmtl.serving.server.refused import Refused, invalid

Arrays = Mapping[str, NDArray[Any]]

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


@dataclasses.dataclass(frozen=True)
class Input:
    """What a signature takes under one name.

    Args:
        name: The input's name.
        dtype: Its type.
        shape: Its sizes; `None` where any will do. The first is the number of rows.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...]

    @property
    def is_vector(self) -> bool:
        """Whether a row is a vector of one fixed width, as those of a tower are."""
        return len(self.shape) == 2 and self.shape[1] is not None

    def describe(self) -> str:
        """The type and the shape in words."""
        sizes = ["rows", *("n" if size is None else str(size) for size in self.shape[1:])]
        return f"{self.dtype.name} [{', '.join(sizes)}]"


class Signature:
    """One signature of a loaded model.

    Args:
        session: Holds the model.
        name: The signature's name.
        definition: A `SignatureDef`.
    """

    def __init__(self, session: Any, name: str, definition: Any) -> None:
        self.name = name
        self.inputs = {
            key: Input(key, tf.as_dtype(info.dtype), _sizes(info.tensor_shape))
            for key, info in sorted(definition.inputs.items())
        }
        self.outputs = sorted(definition.outputs)
        graph = session.graph
        self._call = session.make_callable(
            [graph.get_tensor_by_name(definition.outputs[key].name) for key in self.outputs],
            feed_list=[
                graph.get_tensor_by_name(definition.inputs[key].name) for key in self.inputs
            ],
        )

    def __call__(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Computes the outputs.

        Args:
            arrays: All inputs by name, of the types and shapes that the signature names.

        Raises:
            Refused: The graph refuses the values.
        """
        try:
            values = self._call(*(arrays[name] for name in self.inputs))
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            # TensorFlow quotes what it cannot parse, and fails where those bytes are no text.
            raise invalid(_malformed_example(arrays) or self._refusal(error)) from None
        except tf.errors.ResourceExhaustedError as error:
            raise Refused("RESOURCE_EXHAUSTED", self._refusal(error)) from None
        return dict(zip(self.outputs, values, strict=True))

    def _refusal(self, error: Exception) -> str:
        return f"signature {self.name!r} with inputs {list(self.inputs)}: {_first_line(error)}"


class LoadedModel:
    """One version of a model in memory.

    Args:
        path: Folder of the SavedModel.
        version: Its number.
        threads: Threads of TensorFlow; 0 takes as many as there are cores.

    Raises:
        OSError: The folder holds no SavedModel.
        tf.errors.OpError: TensorFlow cannot load it.
    """

    def __init__(self, path: str, version: int, *, threads: int = 0) -> None:
        start = time.monotonic()
        self.path, self.version = path, version
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            loader = tf.compat.v1.saved_model.load
            self.meta_graph = loader(self._session, [tf.saved_model.SERVING], path)
            self.signatures = {
                name: Signature(self._session, name, definition)
                for name, definition in self.meta_graph.signature_def.items()
                # The first is TensorFlow's own, for its initialisation.
                if not name.startswith("__")
            }
            self._warm_up()
        except BaseException:
            self._session.close()
            raise
        self.seconds_to_load = time.monotonic() - start
        self._users, self._retired = 0, False

    def signature(self, name: str) -> Signature:
        """A signature by name; `serving_default` where the name is empty.

        Raises:
            Refused: There is none of that name.
        """
        name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        if name not in self.signatures:
            known = sorted(self.signatures)
            raise invalid(f"the model has no signature {name!r}; it has {known}.")
        return self.signatures[name]

    def acquire(self) -> None:
        """Notes a request that will use the model. Called in the server's event loop alone."""
        self._users += 1

    def release(self) -> None:
        """Takes back `acquire`; the last user of a retired model closes it."""
        self._users -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """Closes the model once no request uses it."""
        self._retired = True
        self._close_if_unused()

    @property
    def closed(self) -> bool:
        """Whether the memory was given back."""
        return self._retired and self._users == 0

    def _close_if_unused(self) -> None:
        if self.closed:
            logging.info("Version %d is closed.", self.version)
            self._session.close()
            self.signatures = {}

    def _warm_up(self) -> None:
        file = os.path.join(self.path, WARMUP_FILE)
        if not tf.io.gfile.exists(file):
            return
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            arrays = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            self.signature(request.model_spec.signature_name)(arrays)


def stacked(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Several requests' inputs as one, row below row."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sizes(shape: Any) -> tuple[int | None, ...]:
    return tuple(None if size.size < 0 else size.size for size in shape.dim)


def _malformed_example(arrays: Arrays) -> str:
    """Which row of a signature's only input is no tf.Example; empty where all are."""
    if len(arrays) > 1:
        return ""
    ((name, values),) = arrays.items()
    for row, value in enumerate(values, 1):
        try:
            tf.train.Example.FromString(value)
        except (DecodeError, TypeError):
            return f"input {name!r}, row {row}: {value[:20]!r} is no serialised tf.Example."
    return ""


def _first_line(error: Exception) -> str:
    # The lines below name operations of the graph, which the sender of a request cannot see.
    message = str(getattr(error, "message", "the graph refused the values"))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Graph execution error", "Detected"))]
    return (told or lines or ["the graph refused the values"])[0][:500]
