"""Raw columns to packed tensors: how each declared feature is encoded.

Input: checked rows. Output: a fitted `Preprocessor` and packed rows (ids and numbers per side,
labels and their weights). The pipeline, a notebook and the exported graph run
the same code. Reading files belongs to `data`, embedding to `layers`.
"""
