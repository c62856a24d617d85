"""Calibrators: predicted probabilities become as large as what happens, per task and scene.

They are fitted on validation rows after training, on the logits of the heads, and become part of
the model and of its export. Nothing here trains the network; whether a metric of calibration is
good enough is for `evaluation` to say.
"""
