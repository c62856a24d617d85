"""The sizes and optimizer settings that papers and their code train with, by name.

    preset = tfmtl.datasets.presets.preset("mtreclib")
    ExperimentConfig(..., model=preset.model("mmoe"), training=preset.training())

What a paper leaves open has our defaults. All select the best epoch on validation rows, also where
the original selects on test rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.model import Model
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.training import Training
from tfmtl.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of one source.

    Args:
        name: Its name.
        source: Where the settings are printed.
        backbones: Arguments of the backbones that it trains, by name.
        model_fields: Fields of `Model`, the same for all backbones.
        training_fields: Fields of `Training`.
        towers: Widths of the towers of backbones that have any.
        differs: Where ours is not the source's.
    """

    name: str
    source: str
    backbones: Mapping[str, Mapping[str, Any]]
    model_fields: Mapping[str, Any]
    training_fields: Mapping[str, Any]
    towers: tuple[int, ...] = ()
    differs: str = ""

    def model(self, backbone: str, **changes: Any) -> Model:
        """The network of a backbone.

        Args:
            backbone: One that the source trains.
            **changes: Fields of `Model` to have another value.

        Raises:
            SpecError: The source does not train such a backbone.
        """
        if backbone not in self.backbones:
            raise SpecError(
                f"preset {self.name!r} has no backbone {backbone!r}; it has "
                f"{', '.join(self.backbones)}.{did_you_mean(backbone, self.backbones)}"
            )
        # ESMM's towers are the backbone; DNN and MaskNet end in one logit; AITM's are its bottoms.
        towerless = ("esmm", "dnn", "masknet", "aitm")
        towers = {} if backbone in towerless else {"tower_units": self.towers or None}
        fields = {**self.model_fields, **towers, **changes}
        if backbone in towerless:
            fields = {k: v for k, v in fields.items() if k in changes or "tower" not in k}
        return Model(backbone={"name": backbone, **self.backbones[backbone]}, **fields)

    def training(self, **changes: Any) -> Training:
        """How the source trains, with the changes given."""
        return Training(**{**self.training_fields, **changes})


def preset(name: str) -> Preset:
    """The settings of a source by name.

    Raises:
        SpecError: There is none of this name; the message lists those known.

    Example:
        >>> preset("mtreclib").model("mmoe").dim
        128
    """
    if name not in PRESETS:
        known = tuple(PRESETS)
        raise SpecError(
            f"no preset {name!r}; known are {', '.join(known)}.{did_you_mean(name, known)}"
        )
    return PRESETS[name]


_RECLIB = {"dropout": 0.2, "batch_norm": True}
_EIGHT = {"num_experts": 8, "expert_units": (512, 256), **_RECLIB}
MTRECLIB = Preset(
    name="mtreclib",
    source="MTReclib (code); taken over by PWiseR and others for AliExpress",
    backbones={
        "single_task": {"bottom_units": (512, 256), **_RECLIB},
        "shared_bottom": {"bottom_units": (512, 256), **_RECLIB},
        "omoe": _EIGHT,
        "mmoe": _EIGHT,
        "ple": {
            "num_specific": 4,
            "num_shared": 4,
            # Its two widths are two levels of one layer each.
            "expert_units": ((512,), (256,)),
            **_RECLIB,
        },
        "aitm": {"bottom_units": (512, 256), **_RECLIB},
    },
    model_fields={
        "dim": 128,
        "numeric_mode": "joint",
        "tower_dropout": 0.2,
        "tower_batch_norm": True,
        "l2": 1e-6,
    },
    training_fields={"batch_size": 2048, "learning_rate": 1e-3, "patience": 2, "epochs": 50},
    towers=(128, 64),
    differs="it stops on the test rows, here on validation rows.",
)
AITM = Preset(
    name="aitm",
    source="AITM (Xi et al., KDD 2021), code for Ali-CCP",
    backbones={"aitm": {"bottom_units": (128, 64, 32), "dropout": (0.1, 0.3, 0.3)}},
    model_fields={"dim": 5, "l2": 1e-6},
    training_fields={"batch_size": 2000, "learning_rate": 1e-3, "patience": 1, "epochs": 10},
    differs="its decay is on embeddings and attention alone, here on all kernels.",
)
_MAN_EXPERTS = {"num_specific": 4, "num_shared": 4}
MAN = Preset(
    name="man",
    source="MAN (Luo et al., 2022), section 4.2; width of embeddings as in AITM's code",
    backbones={
        "omoe": {"num_experts": 8, "expert_units": (256, 128)},
        "mmoe": {"num_experts": 8, "expert_units": (256, 128)},
        "cgc": {**_MAN_EXPERTS, "expert_units": (256, 128)},
        "ple": {**_MAN_EXPERTS, "expert_units": ((256,), (128,))},
        "man": {**_MAN_EXPERTS, "expert_units": ((256, 128),)},
        "esmm": {},
        "aitm": AITM.backbones["aitm"],
    },
    model_fields={"dim": 5, "l2": 1e-6},
    training_fields={"batch_size": 2048, "learning_rate": 1e-3, "patience": 2, "epochs": 15},
    towers=(128, 16, 32),
)
_AUTOMTL_EXPERTS = {"num_specific": 4, "num_shared": 4}


def _automtl(name: str, dim: int, where: str) -> Preset:
    units = (512, 256)
    return Preset(
        name=name,
        source=f"AutoMTL, section 4.1.4, for {where}",
        backbones={
            "single_task": {"bottom_units": units},
            "shared_bottom": {"bottom_units": units},
            "mmoe": {"num_experts": 8, "expert_units": units},
            "cgc": {**_AUTOMTL_EXPERTS, "expert_units": units},
            "ple": {**_AUTOMTL_EXPERTS, "expert_units": ((512,), (256,))},
        },
        model_fields={"dim": dim, "numeric_mode": "joint", "l2": 1e-6},
        training_fields={
            "batch_size": 2048,
            "learning_rate": 1e-3,
            "patience": 2,
            "monitor": "loss",
            "epochs": 20,
        },
        towers=(64,),
        differs="the paper prints neither the batch size nor the widths of the baselines' experts; "
        "these are MTReclib's.",
    )


AUTOMTL = _automtl("automtl", 64, "UserBehavior and IJCAI-15")
AUTOMTL_ALIEXPRESS = _automtl("automtl_aliexpress", 128, "AliExpress")
AUTOMTL_SEARCH = AutoMTL(tower_units=(64,))
"""The paper's search: eight experts, rates of 0.01 and 0.001, an auxiliary weight of 0.1."""

PWISER = dataclasses.replace(
    MTRECLIB,
    name="pwiser",
    source="PWiseR (Durmus et al.), Table 3; networks as MTReclib's",
    backbones={
        **{n: MTRECLIB.backbones[n] for n in ("shared_bottom", "mmoe", "ple")},
        "dnn": {"units": (500, 500, 500)},
        "masknet": {"form": "serial", "units": (400, 400, 400)},
    },
    model_fields={**MTRECLIB.model_fields, "balancer": {"name": "fixed", "reduction": "sum"}},
    differs="DNN and MaskNet have FuxiCTR's default widths; their batches and embeddings are "
    "Table 3's.",
)
PWISER_TERM: Mapping[str, Any] = {
    "name": "pwiser",
    "weight": 0.1,
    "margin_click": 0.3,
    "margin_no_click": 0.3,
}
"""Table 3's λ, m1 and m2."""

FUXICTR = Preset(
    name="fuxictr",
    source="FuxiCTR, model_zoo/multitask, the default configurations",
    backbones={
        "shared_bottom": {"bottom_units": (512, 256, 128)},
        "mmoe": {
            "num_experts": 8,
            "expert_units": (512, 256, 128),
            "gate_hidden": (128, 64),
        },
    },
    model_fields={
        "dim": 64,
        "numeric_mode": "fieldwise",
        "l2": 1e-6,
        "balancer": {"name": "fixed", "reduction": "sum"},
    },
    training_fields={"batch_size": 128, "learning_rate": 1e-3, "patience": 2, "epochs": 100},
    towers=(128, 64),
    differs="its decay is on embeddings alone, here on all kernels; it validates on test rows.",
)
PRESETS: Mapping[str, Preset] = {
    each.name: each for each in (MTRECLIB, AITM, MAN, AUTOMTL, AUTOMTL_ALIEXPRESS, PWISER, FUXICTR)
}
