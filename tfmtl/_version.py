"""The version, kept alone so that setup.py can read it without importing TensorFlow."""

__version__ = "0.1.0"
