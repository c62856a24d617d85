"""What leaves the house: SavedModels with their signatures, and what is made with them.

In go a trained model and its preprocessor; out come a SavedModel for TensorFlow Serving, vectors of
a catalogue's ads, and the cost of a request. Nothing here trains.
"""
