"""What `Model(loss_reduction=…)` divides a task's losses by."""

import numpy as np

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl.declare.layout import WEIGHTS
from tfmtl.model.multitask import MultiTaskModel

_, DATA = packed()
BATCH = next(iter(DATA.train.batches(64)))


def losses_of(reduction):
    declared = experiment(
        backbone={"name": "shared_bottom", **SMALL["shared_bottom"]}, loss_reduction=reduction
    )
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, declared.model)
    model(BATCH)
    # Logits of 0 and log loss of log 2 for every row, whatever the initial weights.
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    return dict(zip(model.heads.trained, model.compute_loss(BATCH)[1].numpy(), strict=True))


def test_a_task_on_few_rows_weighs_as_much_as_any_by_default_and_as_its_rows_by_batch():
    share = float(np.mean(BATCH[WEIGHTS].numpy()[:, PROBLEM.task_names.index("cvr")] > 0))
    masked, batch = losses_of("masked"), losses_of("batch")
    assert 0 < share < 1
    np.testing.assert_allclose([masked["ctr"], masked["cvr"]], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(batch["ctr"], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(batch["cvr"], share * np.log(2), rtol=1e-6)
