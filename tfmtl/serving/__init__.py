"""Serving: SavedModels with their signatures, the vectors of a catalogue, the cost of a request.

The input is a trained model with its preprocessor. The output is a SavedModel for TensorFlow
Serving, vectors of a catalogue's ads, and the cost of a request. Nothing here trains.
"""
