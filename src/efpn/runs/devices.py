"""How many devices a config asks for; no torch."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig


def one_device(cfg: DictConfig) -> bool:
    """Whether ``cfg.trainer`` names a single device, by count or in a list."""
    devices = cfg.trainer.get("devices", 1)
    return devices == 1 or (isinstance(devices, ListConfig) and len(devices) == 1)
