"""How many objects a size band holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from efpn.metrics.bands import Bands, Edges, SizeRule, box_sizes, in_band


def objects_by_size(
    ground_truth: Mapping[str, Any],
    bands: Bands,
    rule: SizeRule,
    category_ids: Iterable[int] | None = None,
    edges: Edges = "half_open",
) -> dict[str, int]:
    """Objects per band, crowds left out.

    Args:
        ground_truth: COCO ground truth.
        bands: ranges of side length, native pixels.
        rule: how a box is measured; ``area`` takes the annotation's own area where there is one.
        category_ids: the evaluated categories; by default all.
        edges: ``half_open`` or ``closed`` (COCOeval's own rule).
    """
    wanted = None if category_ids is None else set(category_ids)
    boxes = [
        box
        for box in ground_truth["annotations"]
        if not box.get("iscrowd", 0) and (wanted is None or box["category_id"] in wanted)
    ]
    corners = np.array([[0, 0, *box["bbox"][2:]] for box in boxes], dtype=float).reshape(-1, 4)
    sizes = box_sizes(corners, rule)
    if rule == "area":
        given = np.array([box.get("area", np.nan) for box in boxes], dtype=float)
        sizes = np.where(np.isnan(given), sizes, np.sqrt(given))
    return {name: int(in_band(sizes, band, edges).sum()) for name, band in bands.items()}
