"""Where the detail of the extended level comes from: what the backbone's stages are run on for C2', C3' ...

The paper runs stage 2 on the stem's map before its max-pool (Table I). Stage 2 has never seen such a map: its filters
answer to pooled maps at the sampling of a whole image. Run on the stem of an image of twice the size, the same weights
give nearly the C2 of the 2x image, even where that image is the 1x one enlarged (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from efpn.errors import UserError
from efpn.pyramid.backbones import Backbone
from efpn.pyramid.receptive import macs_per_cell, reach


@dataclass(frozen=True)
class Fine:
    """What C2' of a batch is made of, not yet computed."""

    map: Tensor  # ``(N, any, s * H/2, s * W/2)``
    # turns it into what stage 2 reads, at stride 2 of the 1x image; also on a part of it
    entry: Callable[[Tensor], Tensor]
    cells: int = 1  # s, cells of ``map`` along each axis for one cell of C2'
    reach: int = 0  # cells of C2' to each side that ``entry`` sees
    work: int = 0  # multiply-adds of ``entry`` for each cell of C2'


class Detail(Protocol):
    """Where C2' comes from."""

    reads_stem: bool  # whether it needs the stem's map of the 1x image
    reads_2x: bool  # whether it needs the 2x image

    def fine(self, backbone: Backbone, images: Tensor, c1: Tensor | None, images_2x: Tensor | None) -> Fine:
        """Prepare what stage 2 is run on.

        Args:
            backbone: whose entry is used.
            images: ``(N, 3, H, W)`` normalised 1x images.
            c1: ``(N, any, H/2, W/2)``, the stem's map of them, where ``reads_stem``.
            images_2x: ``(N, 3, 2H, 2W)``, where ``reads_2x``.
        """


@dataclass(frozen=True)
class Stem:
    """The paper's: the stem's map of the 1x image, before its max-pool."""

    reads_stem = True
    reads_2x = False

    def fine(self, backbone: Backbone, images: Tensor, c1: Tensor | None, images_2x: Tensor | None) -> Fine:
        """See `Detail.fine`."""
        assert c1 is not None, "the backbone was run without stem=True"
        return Fine(c1, nn.Identity())


@dataclass(frozen=True)
class Doubled:
    """The 1x image, enlarged bicubically: the sampling of the 2x image without its pixels."""

    reads_stem = False
    reads_2x = False

    def fine(self, backbone: Backbone, images: Tensor, c1: Tensor | None, images_2x: Tensor | None) -> Fine:
        """See `Detail.fine`."""
        return entry_on(backbone, F.interpolate(images, scale_factor=2.0, mode="bicubic", align_corners=False))


@dataclass(frozen=True)
class Image2x:
    """The 2x image itself, where the file holds it."""

    reads_stem = False
    reads_2x = True

    def fine(self, backbone: Backbone, images: Tensor, c1: Tensor | None, images_2x: Tensor | None) -> Fine:
        """See `Detail.fine`.

        Raises:
            ValueError: no 2x images are given.
        """
        if images_2x is None:
            raise ValueError("the extended level reads the 2x images: call the detector with images_2x=")
        return entry_on(backbone, images_2x)


def entry_on(backbone: Backbone, images_2x: Tensor) -> Fine:
    """The backbone's entry on an image of twice the size: a cell of C2' is ``stride`` of its pixels wide."""
    entry, cells = backbone.entry, backbone.levels[0].stride
    return Fine(images_2x, entry, cells, reach=ceil(reach(entry) / cells), work=macs_per_cell(entry, cells))


def require_stem(detail: Detail, backbone: Backbone) -> None:
    """Refuse the paper's detail where the backbone cannot give the stem's map at stride 2.

    Raises:
        UserError: with what to use.
    """
    if detail.reads_stem and backbone.stem is None:
        raise UserError(
            f"detail=stem: {type(backbone).__name__} has no stem of stride 2 with a pooling layer after it; use "
            "detail=doubled or detail=image_2x"
        )
