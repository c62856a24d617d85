"""Which variables weight decay is on."""

import tensorflow as tf

UNDECAYED = ("bias", "gamma", "beta")


def is_kernel(variable: tf.Variable) -> bool:
    """Whether a variable is a kernel, which weight decay is on.

    Vectors are none; nor are biases and a norm's gain and offset, `bias…`, `gamma…` and `beta…`
    by their own name, where several layers' are the rows of one matrix.

    Args:
        variable: A trainable variable that is no table.
    """
    own_name = variable.name.rsplit("/", 1)[-1]
    return variable.shape.rank > 1 and not own_name.startswith(UNDECAYED)
