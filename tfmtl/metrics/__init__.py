"""Arrays to numbers: AUC, log loss, calibration and the like, exact and with intervals.

In go labels, predictions, weights and groups as NumPy arrays; out come numbers by name, each with
its sample space (`cvr/auc@click`). What the numbers decide belongs to `evaluation`.
"""
