"""A batch's losses computed a second time, after its update, for balancers that ask for them."""

from collections.abc import Mapping

import tensorflow as tf
import tf_keras as keras

from tfmtl.balancing.base import TaskLosses
from tfmtl.errors import SpecError


def losses_again(model: keras.Model, inputs: Mapping[str, tf.Tensor]) -> TaskLosses:
    """Returns a batch's losses as training computes them, without a trace of this second pass.

    Batch normalisation uses the batch's moments, as before the update. What the forward pass
    writes besides (moving moments, queues of loss terms) is put back, so that training is the
    same whether or not a balancer asks. Weight decay is left out.

    Args:
        model: A `MultiTaskModel`.
        inputs: The packed batch, with labels.

    Raises:
        SpecError: The model has dropout. It would draw another mask than before the update, and
            the difference of the losses would be the masks'.
    """
    dropping = [layer.name for layer in model.submodules if _has_dropout(layer)]
    if dropping:
        raise SpecError(
            f"balancer {model.balancer.name!r} compares a batch's losses before and after its "
            f"update, and dropout ({sorted(set(dropping))}) draws anew in between; set every "
            "dropout to 0, or use another balancer."
        )
    learnt = {v.ref() for v in model.balancer.variables}
    # By how a variable was made, not by `layer.trainable`: frozen tables are never written.
    written = [v for v in model.variables if not v.trainable and v.ref() not in learnt]
    before = [v.read_value() for v in written]
    losses: TaskLosses = model.task_losses(inputs, training=True, decay=False)
    for variable, value in zip(written, before, strict=True):
        variable.assign(value)
    return losses


def _has_dropout(layer: tf.Module) -> bool:
    is_dropout = isinstance(layer, keras.layers.Dropout)
    share = layer.rate if is_dropout else getattr(layer, "dropout", 0.0)
    return isinstance(share, float) and share > 0
