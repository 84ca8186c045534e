"""What data and metrics both ask of plain boxes. No torch."""

from __future__ import annotations

import numpy as np

SLACK = 1.0  # pixels that a box may hang over its image's edge without looking wrong


def look_like_corners(boxes: np.ndarray, images: np.ndarray) -> np.ndarray | None:
    """Find out boxes given as x1, y1, x2, y2 where x, y, width, height are due.

    Args:
        boxes: ``(n, 4)`` as given.
        images: ``(n, 2)`` width and height of the image of each, in the same pixels.

    Returns:
        ``(n,)`` bool, which of them reach beyond their image as x, y, width, height, if more than a fifth do and
        practically all fit as corners; else None.
    """
    over = (boxes[:, :2] + boxes[:, 2:] > images + SLACK).any(axis=1)
    fit = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= images + SLACK).all(axis=1)
    return over if len(boxes) and fit.mean() > 0.99 and over.mean() > 0.2 else None
