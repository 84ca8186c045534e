"""Running a trained detector over images, each as a whole or by its windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from efpn.data.dataset import image_pair
from efpn.data.images import ImageError, read_image
from efpn.data.transforms import NO_BOXES, Transform
from efpn.models import EFPNDetector
from efpn.prediction.images import ImageFile, Slices, Window
from efpn.prediction.merging import merge_windows
from efpn.signals import leave_to_main
from efpn.tasks.base import count_capped, native_detections


class Shot(NamedTuple):
    """An image that was read: its ``image`` ``(h, w, 3)`` uint8, native pixels; or None, and in ``error`` why not."""

    file: ImageFile
    image: NDArray[np.uint8] | None
    error: str = ""


def image_loader(files: list[ImageFile], num_workers: int) -> DataLoader[Any]:
    """One `Shot` at a time; they are resized later, window by window, so that a large one needs little memory."""
    dataset: Any = (
        files  # a list does what is asked of a data set; its items are read where they are collated, in a worker
    )
    return DataLoader(dataset, None, collate_fn=_read, num_workers=num_workers, worker_init_fn=leave_to_main)


def _read(file: Any) -> Shot:
    """A broken image is an item too."""
    try:
        return Shot(file, read_image(file.path))
    except ImageError as error:
        return Shot(file, None, error.what)


class PredictionTask(pl.LightningModule):
    """Finds the objects of an image, by ``batch_size`` windows at a time, or in the whole of it without ``slices``.

    The ``transform`` resizes a window as the run's own evaluation resizes an image.
    """

    def __init__(
        self, detector: EFPNDetector, transform: Transform, slices: Slices | None = None, batch_size: int = 1
    ) -> None:
        super().__init__()
        self.detector = detector
        self.transform = transform
        self.slices = slices
        self.batch_size = batch_size
        self.capped = 0  # windows that held as many detections as the detector's cap allows

    def predict_step(self, batch: Shot, batch_idx: int) -> dict[str, Tensor]:
        """Detect in one image, in its native pixels; nothing at all, not even keys, for a broken one."""
        return {} if batch.image is None else self.detect(batch.image)

    def detect(self, image: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Detect in ``image (h, w, 3)``; boxes in its pixels."""
        height, width = image.shape[:2]
        windows = self.slices.windows(height, width) if self.slices else [(0, 0, width, height)]
        seen: list[dict[str, Tensor]] = []
        for start in range(0, len(windows), self.batch_size):
            seen += self._detect_windows(image, windows[start : start + self.batch_size])
        if self.slices and self.slices.whole and len(windows) > 1:
            boxes, shared = seen[0]["boxes"], self.slices.overlap * self.slices.size
            large = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) > shared  # a smaller object is whole in some window
            seen[0] = {key: value[large] for key, value in seen[0].items()}
        return merge_windows(seen, windows, height, width, self.detector.nms_thresh)

    def _detect_windows(self, image: NDArray[np.uint8], windows: list[Window]) -> list[dict[str, Tensor]]:
        parts = [np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in windows]
        double = self.detector.backbone.reads_2x
        views = [image_pair(self.transform, part, NO_BOXES, seed=0, double=double) for part in parts]
        images_2x = [pixels.to(self.device) for _, pixels, _ in views if pixels is not None]
        found = self.detector([pixels.to(self.device) for pixels, _, _ in views], images_2x=images_2x or None)
        self.capped += count_capped(self.detector, found)
        places = [{"image_id": torch.tensor(n), "scale": torch.tensor(v.scale)} for n, (_, _, v) in enumerate(views)]
        return native_detections(found, places)[1]
