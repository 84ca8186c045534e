"""Configs of older runs, brought to what they are called today."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

RENAMED = {  # `_target_`s
    "efpn.models.ResNetTrunk": "efpn.models.ResNet",
    "efpn.models.build_detector": "efpn.models.build_faster_rcnn",
}


def migrated(config: DictConfig) -> DictConfig:
    """The same run's config in today's words; one that is of today stays as it is.

    Before version 0.2 the detector's backbone was its ``trunk``, and OHEM a node of its own beside ``small``.
    """
    if "trunk" not in config.model:
        return config
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.model.backbone = config.model.pop("trunk")
    config.model.leaves_out = []
    for phase in config.phases.values():
        ohem = phase.model.pop("ohem", None)
        if phase.model.get("small"):
            phase.model.small.mining = ohem
    for node in (config.get("backbone"), config.model, config.model.backbone):
        if OmegaConf.is_dict(node):
            node["_target_"] = RENAMED.get(node["_target_"], node["_target_"])
    return config
