"""TFX components: each gives a function of `tfmtl` a place in a pipeline."""
