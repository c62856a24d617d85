"""The matrix products of a step of MMoE and nothing else: what the machine can do at best."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.steps.worker import EXPERTS, ROWS, Case, Step, serve


def make(case: Case) -> tuple[Step, dict[str, str]]:
    """Three products per layer of experts: forward, and both gradients."""
    first, second = case.units
    width = (len(case.sizes) + 1) * case.dim
    x = tf.Variable(tf.random.normal([ROWS, width]))
    wide = tf.Variable(tf.random.normal([width, EXPERTS * first]))
    out = tf.Variable(tf.random.normal([ROWS, EXPERTS * first]))
    hidden = tf.Variable(tf.random.normal([EXPERTS, ROWS, first]))
    kernel = tf.Variable(tf.random.normal([EXPERTS, first, second]))
    above = tf.Variable(tf.random.normal([EXPERTS, ROWS, second]))

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        products = (
            tf.matmul(x, wide),
            tf.matmul(out, wide, transpose_b=True),
            tf.matmul(x, out, transpose_a=True),
            tf.matmul(hidden, kernel),
            tf.matmul(above, kernel, transpose_b=True),
            tf.matmul(hidden, above, transpose_a=True),
        )
        return tf.add_n([tf.reshape(product, [-1])[0] for product in products])

    return lambda turn: float(step()), {"tensorflow": tf.__version__}


if __name__ == "__main__":
    serve(make)
