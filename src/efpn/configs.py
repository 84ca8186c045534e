"""Reading a config: all of its keys, and how many devices it asks for. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from omegaconf import DictConfig, ListConfig, OmegaConf


def walk(node: Mapping[Any, Any] | DictConfig, own: bool = False, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a config, dotted, behind ``prefix``, with their values; a group stands before what is in it.

    ``own`` leaves out what is read from another key and what is still to be given; otherwise these come as None.
    """
    for key in map(str, node):
        absent = OmegaConf.is_config(node) and (
            OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key)
        )
        if absent and own:
            continue
        value = None if absent else node[key]
        yield f"{prefix}{key}", value
        if is_group(value):
            yield from walk(value, own, f"{prefix}{key}.")


def leaves(node: Mapping[Any, Any] | DictConfig, own: bool = False) -> Iterator[tuple[str, Any]]:
    """Those of `walk` that are no groups; an empty group is none either."""
    return ((key, value) for key, value in walk(node, own) if not is_group(value))


def is_group(value: Any) -> TypeGuard[Mapping[Any, Any] | DictConfig]:
    """Whether there are keys below a value."""
    return isinstance(value, Mapping | DictConfig)


def one_device(cfg: DictConfig) -> bool:
    """Whether ``cfg.trainer`` names a single device, by count or in a list."""
    devices = cfg.trainer.get("devices", 1)
    return devices == 1 or (isinstance(devices, ListConfig) and len(devices) == 1)
