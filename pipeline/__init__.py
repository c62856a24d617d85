"""Wires the components into a pipeline and configures it, one file a data set."""
