"""What a backbone must declare of its variables, found by each task's gradients."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf


def own_block_errors(
    backbone: tf.Module, represent: Callable[[], Mapping[str, tf.Tensor]]
) -> list[str]:
    """What `own_blocks` of a built backbone leaves out, or says wrongly.

    A variable that several tasks reach by the graph, but of which no number has a gradient from
    two tasks, holds the tasks' own parts side by side. It must be declared, or PCGrad, MGDA and
    CAGrad count private weights as shared.

    Args:
        backbone: A backbone with weights that leave no gradient zero by chance.
        represent: Calls it on some rows.
    """
    variables = backbone.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        representations = represent()
        # Squared, so that the loss depends on the sign of what each task's gradient is.
        losses = {task: tf.reduce_sum(h**2 + h) for task, h in representations.items()}
    reached = {}
    for task, loss in losses.items():
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            if gradient is not None:
                dense = tf.convert_to_tensor(gradient).numpy()
                reached.setdefault(variable.ref(), {})[task] = dense != 0
    declared = {variable.ref(): tasks for variable, tasks in backbone.own_blocks()}
    errors = []
    for variable in variables:
        of_tasks = reached.get(variable.ref(), {})
        owners = declared.get(variable.ref())
        if owners is None:
            if len(of_tasks) > 1 and np.sum(list(of_tasks.values()), axis=0).max() < 2:
                errors.append(
                    f"{variable.name} holds parts of {sorted(of_tasks)} side by side, each trained "
                    "by one task alone: declare it in own_blocks(), with a block per task along "
                    "its first axis."
                )
            continue
        for task, touched in of_tasks.items():
            blocks = touched.reshape(len(owners), -1).any(axis=1)
            wrong = [i for i, owner in enumerate(owners) if blocks[i] and owner != task]
            if wrong:
                errors.append(
                    f"{variable.name}: own_blocks() gives blocks {wrong} to "
                    f"{[owners[i] for i in wrong]}, but task {task!r} trains them too."
                )
    return errors
