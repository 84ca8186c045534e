"""Receptive fields and multiply-adds of chains of layers, from the layers themselves."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

Layer = nn.Conv2d | nn.MaxPool2d


def reach(module: nn.Module) -> int:
    """How far, in cells that it reads, a chain of layers sees to each side, beyond the cells that it shrinks."""
    cells, stride = 0, 1
    for layer in _chain(module):
        cells += (_side(layer.kernel_size) - 1) // 2 * _side(layer.dilation) * stride
        stride *= _side(layer.stride)
    return cells


def weights(module: nn.Module) -> int:
    """Weights of all convolutions and linear layers in a module: their multiply-adds for each cell."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def macs_per_cell(module: nn.Module, cells: int) -> int:
    """Multiply-adds of a chain of layers and its shortcuts for each square of ``cells x cells`` that it reads."""
    total, stride = 0.0, 1
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not _on_a_shortcut(module, name):
            stride *= _side(layer.stride)
        # a shortcut stands behind the layers of its block, and makes what they make
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += layer.weight.numel() * (cells / stride) ** 2
    return round(total)


def _chain(module: nn.Module) -> Iterator[Layer]:
    """Its convolutions and max-pools, but for those on a shortcut beside a block (torchvision's ``downsample``)."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not _on_a_shortcut(module, name):
            yield layer


def _on_a_shortcut(module: nn.Module, name: str) -> bool:
    """Whether a ``downsample`` stands beside ``conv1`` of a block; in front of blocks it is in the chain."""
    parents, found, _ = name.rpartition("downsample.")
    if not found or not parents:
        return False
    block = module.get_submodule(parents.rstrip("."))
    return any(child == "conv1" for child, _ in block.named_children())


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else int(value[0])
