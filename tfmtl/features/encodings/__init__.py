"""Encodings of features: how raw values become ids or numbers, one class per encoding.

In go a column's values and statistics of the training rows; out come ids or numbers. Declaring a
feature makes its encoding, so nothing here loads TensorFlow before it encodes. Which columns are
read and where what comes out is put belongs to `features`.
"""

from tfmtl.features.encodings.base import CategoricalEncoding, Encoding, NumericalEncoding
from tfmtl.features.encodings.cyclic import Cyclic
from tfmtl.features.encodings.hash import Hash
from tfmtl.features.encodings.identity import Identity
from tfmtl.features.encodings.quantiles import Piecewise, Quantile
from tfmtl.features.encodings.standard import Log, Standard
from tfmtl.features.encodings.vocabulary import Vocabulary

__all__ = [
    "CategoricalEncoding",
    "Cyclic",
    "Encoding",
    "Hash",
    "Identity",
    "Log",
    "NumericalEncoding",
    "Piecewise",
    "Quantile",
    "Standard",
    "Vocabulary",
]
