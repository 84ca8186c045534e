"""Configs of older runs, brought to what they are called today."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

RENAMED = {  # `_target_`s
    "efpn.models.Windows": "efpn.models.Tiles",
    "efpn.models.ResNetTrunk": "efpn.models.ResNet",
    "efpn.models.build_detector": "efpn.models.build_faster_rcnn",
}
LEVELS = {"p2x": "p2_ext", "p3x": "p3_ext"}


def migrated(config: DictConfig) -> DictConfig:
    """The run's config, changed to today's words; one that is of today stays as it is.

    Before version 0.2 the detector's backbone was its ``trunk``, OHEM a node of its own beside ``small``, P2' was
    ``p2x`` and cut into ``windows``, and colour jitter and flip were arguments of the training transform, where they
    are entries of its ``augment``. Then an extension said with ``c3`` whether its second pass went on to stage 3,
    and ``tiles`` how far the stages see around one.
    """
    extensions = [
        config.get("extension"),
        *(phase.get("model", {}).get("extension") for phase in config.phases.values()),
    ]
    for extension in extensions:
        if OmegaConf.is_dict(extension) and "c3" in extension:
            extension.last_stage = 3 if extension.pop("c3") else 2
    for node in (config, *config.phases.values()):
        _augment(node.get("data", {}).get("train_transform", {}))
    if "check_pictures" in config.data:
        config.data.check_images = config.data.pop("check_pictures")
    model = config.model
    if "windows" in model:  # what P2' is cut into, on a grid of ``tile`` cells
        model.tiles = model.pop("windows")
        if model.tiles:
            model.tiles._target_ = RENAMED.get(model.tiles._target_, model.tiles._target_)
            model.tiles.grid = model.tiles.pop("tile")
    if OmegaConf.is_dict(model.get("tiles")) and (margin := model.tiles.pop("margin", None)) is not None:
        for extension in filter(OmegaConf.is_dict, extensions):
            if "upsampler" in extension:
                extension.margin = margin
    if "leaves_out" in model:
        model.leaves_out = ["tiles" if key == "windows" else key for key in model.leaves_out]
    if "trunk" not in model:
        return config
    model.backbone = model.pop("trunk")
    model.leaves_out = []
    for node in (config.get("backbone"), model, model.backbone):
        if OmegaConf.is_dict(node):
            node["_target_"] = RENAMED.get(node["_target_"], node["_target_"])
    for phase in config.phases.values():
        ohem = phase.model.pop("ohem", None)
        if small := phase.model.get("small"):
            if ohem:
                small.mining = ohem
            small.level = LEVELS.get(small.level, small.level)
        loss = phase.task.get("loss")
        if loss and "on_p3x" in loss:
            loss.on_p3_ext = loss.pop("on_p3x")
    return config


def _augment(transform: DictConfig) -> None:
    """Make entries of ``augment`` of what were arguments; what was turned off stays so."""
    given = {key: transform.pop(key) for key in ("color_jitter", "hflip_prob") if key in transform}
    if not given:
        return
    transform.augment = {}
    if "color_jitter" in given:
        color = given["color_jitter"]
        transform.augment.color = {"_target_": "efpn.data.augment.ColorJitter", **color} if color else None
    if "hflip_prob" in given:
        flip = given["hflip_prob"]
        transform.augment.flip = {"_target_": "efpn.data.augment.HorizontalFlip", "p": flip} if flip else None
