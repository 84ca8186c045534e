"""Windows that cover a large image. No torch.

A network has learned objects at the scale of its training images. Resized as a whole, a much larger image shows
them smaller, or not at all; cut into windows, each resized like an image of its own, it shows them as learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from efpn.errors import UserError

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole native pixels


@dataclass(frozen=True)
class Slices:
    """How images are cut."""

    # side of a square window, native pixels; at the shorter side of the training images, objects have the scale of
    # training
    size: int
    overlap: float = 0.2  # least share of a side that neighbours have in common
    # also look at the image as a whole, for objects that no window holds; it adds those larger than the overlap, as all
    # others are whole in a window, and better resolved there
    whole: bool = True

    def windows(self, height: int, width: int) -> list[Window]:
        """Windows that cover an image of that size and nothing else, row by row; the image itself first, if `whole`.

        They are spread evenly, so that neighbours share at least ``overlap`` of a side (to the whole pixel); along a
        side that is shorter than ``size``, they are as long as the image, which comes alone where it fits in one.
        """
        stride = max(1, int(self.size * (1 - self.overlap)))
        starts = []
        for length in (height, width):
            last = max(length - self.size, 0)
            steps = -(-last // stride)
            starts.append([step * last // max(steps, 1) for step in range(steps + 1)])
        right, bottom = (min(self.size, side) for side in (width, height))
        parts: list[Window] = [(x, y, x + right, y + bottom) for y in starts[0] for x in starts[1]]
        return [(0, 0, width, height), *parts] if self.whole and len(parts) > 1 else parts


def slices_of(cfg: DictConfig) -> Slices | None:
    """How the config asks for images to be cut; None: not (raises `UserError`: ``slices`` is no group of options)."""
    if not isinstance(cfg.slices, DictConfig | None):
        raise UserError(f"slices={cfg.slices}: a group of options; give slices.size={cfg.slices}")
    if cfg.slices is None or cfg.slices.size is None:
        return None
    return Slices(**{str(key): value for key, value in cfg.slices.items()})
