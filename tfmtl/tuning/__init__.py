"""Searches for settings: fields of an experiment, loss weights, and Keras Tuner's interface.

The input is an experiment with a search space, and packed rows. The output is the experiment with
the settings that were best on validation rows. The search for a network belongs to `automtl`.
"""
