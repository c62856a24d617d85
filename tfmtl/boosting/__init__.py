"""Boosted trees as a baseline: LightGBM, one booster per task, on the same rows and labels.

The input is checked tables and a `ProblemSpec`. The output is boosters, their predictions, and
metrics under the same names as those of the networks.
"""
