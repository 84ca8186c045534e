"""Configs of older runs, brought to what they are called today."""

from __future__ import annotations

from omegaconf import DictConfig


def migrated(config: DictConfig) -> DictConfig:
    """The same run's config in today's words; one that is of today stays as it is.

    Before version 0.2 colour jitter and flip were arguments of the training transform, not entries of its ``augment``.
    """
    transforms = [node.get("data", {}).get("train_transform", {}) for node in (config, *config.phases.values())]
    for transform in transforms:
        color, flip = transform.pop("color_jitter", None), transform.pop("hflip_prob", None)
        if color is not None or flip is not None:
            transform.augment = {}
        if color:
            transform.augment.color = {"_target_": "efpn.data.augment.ColorJitter", **color}
        if flip:
            transform.augment.flip = {"_target_": "efpn.data.augment.HorizontalFlip", "p": flip}
    return config
