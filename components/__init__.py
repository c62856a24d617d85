"""TFX components: each gives a function of `tfmtl` a place in a pipeline."""

import tfmtl  # noqa: F401  chooses the Keras that TensorFlow loads, which tfx would choose else
