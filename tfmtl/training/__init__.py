"""The ordinary training loop: epochs, validation, early stopping and checkpoints.

The input is a model and packed rows; the output is the model with the weights of its best epoch.
Methods without ordinary steps (`meta`, `mtms`, `automtl`) have their loops in their own rooms, and
use the parts here that they have in common.
"""
