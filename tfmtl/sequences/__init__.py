"""Poolings of behaviour sequences: the embedded events of a row to one vector.

Registered as kind `sequence_pooling`, and chosen by `sequence(pooling=…)`. Importing this package
registers them all. Which events there are is decided in `features`, their look-up in `layers`.
"""

from tfmtl.sequences.base import SequencePooling, masked_softmax
from tfmtl.sequences.bst import BST
from tfmtl.sequences.checks import has_weights, pooling_of, reads_target
from tfmtl.sequences.decay import Decay
from tfmtl.sequences.din import DIN
from tfmtl.sequences.plain import MaxOfEvents, MeanOfEvents, SumOfEvents
from tfmtl.sequences.self_attention import AttentiveEvents, SelfAttentionOfEvents
from tfmtl.sequences.target_attention import TargetAttention
from tfmtl.sequences.tim import TIM

__all__ = [
    "BST",
    "DIN",
    "TIM",
    "AttentiveEvents",
    "Decay",
    "MaxOfEvents",
    "MeanOfEvents",
    "SelfAttentionOfEvents",
    "SequencePooling",
    "SumOfEvents",
    "TargetAttention",
    "has_weights",
    "masked_softmax",
    "pooling_of",
    "reads_target",
]
