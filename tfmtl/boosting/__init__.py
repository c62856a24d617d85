"""The baseline of trees: LightGBM, one booster per task, on the same rows, labels and metrics.

In go checked tables and a `ProblemSpec`; out come boosters, their predictions and metrics under the
names that the networks' have.
"""
