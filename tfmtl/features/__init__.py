"""From raw columns to packed tensors: declarations, layout, encodings, fitted statistics."""
