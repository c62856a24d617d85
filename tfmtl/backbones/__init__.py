"""Backbones, one file per paper: fields to one representation per task.

In go fields `[batch, fields, dim]`; out comes `{task: [batch, width]}`. Importing this package
registers them all. Towers, logits and losses belong to `model` and `losses`.
"""

from tfmtl.backbones.adatt import AdaTT
from tfmtl.backbones.aitm import AITM
from tfmtl.backbones.automtl import AutoMTLNetwork
from tfmtl.backbones.base import Backbone, flatten
from tfmtl.backbones.cgc import CGC
from tfmtl.backbones.dnn import DNN
from tfmtl.backbones.esmm import ESMM
from tfmtl.backbones.man import MAN
from tfmtl.backbones.masknet import MaskNet
from tfmtl.backbones.mmoe import MMoE
from tfmtl.backbones.omoe import OMoE
from tfmtl.backbones.per_scene import PerScene
from tfmtl.backbones.ple import PLE
from tfmtl.backbones.shared_bottom import SharedBottom
from tfmtl.backbones.single_task import SingleTask
from tfmtl.backbones.star import STAR
from tfmtl.backbones.two_tower import TwoTower

__all__ = [
    "AITM",
    "CGC",
    "DNN",
    "ESMM",
    "MAN",
    "PLE",
    "STAR",
    "AdaTT",
    "AutoMTLNetwork",
    "Backbone",
    "MMoE",
    "MaskNet",
    "OMoE",
    "PerScene",
    "SharedBottom",
    "SingleTask",
    "TwoTower",
    "flatten",
]
