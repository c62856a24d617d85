"""The ordinary training loop: epochs, validation, early stopping and checkpoints.

In go a model and packed rows; out comes the model with the weights of its best epoch. A method that
does not train by ordinary steps (`meta`, `mtms`, `automtl`) has its loop in its own room, and takes
from here what it shares.
"""
