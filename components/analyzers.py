"""The analyzers of the encodings in TensorFlow Transform: Beam computes the statistics."""

import hashlib
import re
from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam

from tfmtl.declare.features import FOLD
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sharing import shared_with
from tfmtl.features.analyzers import Lookup
from tfmtl.features.raw import NO_INTEGER

# Between two analyses of which one reads the other's result, as the parts of a shared vocabulary,
# TensorFlow Transform copies Beam's steps, with a constructor that Beam does not have any more.
# Without the copies Beam reads what it kept.
tft_beam.Context.get_use_deep_copy_optimization = staticmethod(  # type: ignore[method-assign]
    lambda: False
)


class TransformAnalyzers:
    """The `tfmtl.features.analyzers.Analyzers` for use in a `preprocessing_fn`."""

    def vocabulary(
        self,
        name: str,
        values: tf.Tensor,
        size: int | None,
        min_count: int,
        further: tf.Tensor | None = None,
    ) -> Lookup:
        """See `Analyzers.vocabulary`."""
        file = vocabulary_file(name)
        first = _lookup(values, size, min_count, file)
        if further is None:
            return first
        # Beam runs the second analysis after the first, whose table it reads.
        others = tf.boolean_mask(further, first(further) < 0)
        second = _lookup(others, size, min_count, vocabulary_file(further_values(name)))

        def joint(values: tf.Tensor) -> tf.Tensor:
            known, other = first(values), second(values)
            size_of_first = tft.experimental.get_vocabulary_size_by_name(file)
            other = tf.where(other < 0, other, other + size_of_first)
            return tf.where(known < 0, other, known)

        return joint

    def moments(self, name: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Analyzers.moments`."""
        values = tf.cast(values, tf.float64)
        return tft.mean(values), tf.sqrt(tft.var(values))

    def quantiles(self, name: str, values: tf.Tensor, bins: int) -> tf.Tensor:
        """See `Analyzers.quantiles`."""
        inner = tf.reshape(tft.quantiles(values, bins, epsilon=0.001), [-1])
        least, greatest = tft.min(values), tft.max(values)
        # With fewer distinct values than bins there may be fewer boundaries. Empty bins fill them
        # up.
        rest = tf.fill([bins - 1 - tf.shape(inner)[0]], greatest)
        edges = tf.concat([[least], inner, rest, [greatest]], axis=0)
        return tf.ensure_shape(edges, [bins + 1])

    def sums(self, name: str, keys: tf.Tensor, values: tf.Tensor) -> Lookup:
        """See `Analyzers.sums`."""
        totals = tft.vocabulary(
            keys, weights=values, store_frequency=True, vocab_filename=vocabulary_file(name)
        )

        def lookup(x: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Each line of the file is `sum key`.
            initializer = tf.lookup.TextFileInitializer(
                file, tf.string, 1, tf.float32, 0, delimiter=" "
            )
            table = tf.lookup.StaticHashTable(initializer, default_value=0.0)
            # `apply_vocabulary` allows only integers as the result of a look-up, so the bits of
            # the sum are passed as an integer.
            return tf.cast(tf.bitcast(table.lookup(x), tf.int32), tf.int64), table.size()

        def sum_of(x: tf.Tensor) -> tf.Tensor:
            bits = tft.apply_vocabulary(x, totals, lookup_fn=lookup)
            return tf.bitcast(tf.cast(bits, tf.int32), tf.float32)

        return sum_of

    def log_counts(self, name: str, keys: tf.Tensor) -> tuple[Lookup, tf.Tensor, tf.Tensor]:
        """See `Analyzers.log_counts`."""
        count = self.sums(name, keys, tf.ones(tf.shape(keys), tf.float32))
        mean, std = self.moments(f"{name}_log", tf.math.log1p(count(keys)))
        return count, mean, std


class TransformGraph(tf.Module):
    """The pipeline's transform graph as `tfmtl.serving.export.Transform`.

    Args:
        output: The output of the Transform component.
        problem: The declaration. A copy with fewer features reads only their columns.
    """

    def __init__(self, output: tft.TFTransformOutput, problem: ProblemSpec):
        super().__init__(name="transform")
        self.layer = output.transform_features_layer()
        self._spec = output.raw_feature_spec()
        self.problem = problem

    def __call__(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the packed tensors of dense raw feature columns."""
        names = tuple(self.problem.feature_columns())
        raw = {name: self._as_declared(name, columns[name]) for name in names}
        if FOLD in self._spec:
            first = columns[names[0]]
            raw[FOLD] = self._as_declared(
                FOLD, tf.fill([tf.shape(first)[0]], tf.constant(-1, tf.int64))
            )
        return self.layer(raw)

    def _as_declared(self, name: str, values: tf.Tensor) -> tf.Tensor | tf.SparseTensor:
        spec = self._spec[name]
        values = values[:, tf.newaxis] if values.shape.rank == 1 else values
        if isinstance(spec, tf.io.FixedLenFeature):
            return tf.reshape(values, [-1, *spec.shape])
        if values.dtype == tf.string:
            present = values != ""
        elif values.dtype == tf.int64:
            present = values != NO_INTEGER
        else:
            present = ~tf.math.is_nan(values)
        where = tf.where(present)
        shape = tf.shape(values, out_type=tf.int64)
        return tf.SparseTensor(where, tf.gather_nd(values, where), shape)


def further_values(name: str) -> str:
    """The name of the second part of a shared vocabulary, see `Analyzers.vocabulary`."""
    return f"{name}/further"


def vocabulary_size(problem: ProblemSpec, output: tft.TFTransformOutput, name: str) -> int:
    """The number of values in a fitted vocabulary, with those of columns that share it."""
    size = int(output.vocabulary_size_by_name(vocabulary_file(name)))
    further = vocabulary_file(further_values(name))
    shared = any(owner == name for owner, _ in shared_with(problem.features))
    # Our own Transform writes one file for both parts.
    if shared and output.vocabulary_file_by_name(further) is not None:
        size += int(output.vocabulary_size_by_name(further))
    return size


def _lookup(values: tf.Tensor, size: int | None, min_count: int, file: str) -> Lookup:
    vocabulary = tft.vocabulary(
        values, top_k=size, frequency_threshold=min_count, vocab_filename=file
    )
    return lambda x: tft.apply_vocabulary(x, vocabulary, default_value=-1)


def vocabulary_file(name: str) -> str:
    """File name of a fitted vocabulary, as in `TFTransformOutput.vocabulary_size_by_name`.

    Names that differ give files that differ: where characters had to be replaced, a digest of the
    name follows.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
