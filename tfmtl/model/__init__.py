"""The assembled network: embedding, interaction, backbone, heads and balancer as one model.

In go packed tensors; out come predictions per task, losses and one ordinary update. The parts come
from `layers`, `operations`, `backbones`, `losses` and `balancing`; loops over epochs belong to
`training` and to the rooms of the methods.
"""
