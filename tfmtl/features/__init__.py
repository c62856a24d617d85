"""Raw columns to packed tensors: how each declared feature is encoded.

In go checked rows; out come a fitted `Preprocessor` and packed rows (ids and numbers per side,
labels and their weights). The same arithmetic runs in the pipeline, in a notebook and in the
exported graph. Reading files belongs to `data`, embedding to `layers`.
"""
