"""Which variables have weight decay."""

import tensorflow as tf

UNDECAYED = ("bias", "gamma", "beta")


def is_kernel(variable: tf.Variable) -> bool:
    """Whether a variable is a kernel, and so has weight decay.

    Vectors are not. Nor are biases and a norm's gain and offset where several layers keep theirs
    as rows of one matrix: they are known by their name, `bias…`, `gamma…` or `beta…`.

    Args:
        variable: A trainable variable that is no table.
    """
    own_name = variable.name.rsplit("/", 1)[-1]
    return variable.shape.rank > 1 and not own_name.startswith(UNDECAYED)
