"""Searches over settings: dotted paths of an experiment, loss weights, and Keras Tuner's interface.

In go an experiment with a search space and packed rows; out comes the experiment with the settings
that were best on validation rows. The search for a network itself belongs to `automtl`.
"""
