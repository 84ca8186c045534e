"""How many objects a size band holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from efpn.metrics.bands import Bands, Edges, SizeRule, box_sizes, in_band
from efpn.metrics.matching import Objects
from efpn.metrics.score import flat_objects

UsedRule = Literal["long_side", "area", "annotation"]


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
    sizes = _objects(ground_truth, category_ids).sizes(rule)
    return {name: int(in_band(sizes, band, edges).sum()) for name, band in bands.items()}


def rule_used(ground_truth: Mapping[str, Any], rule: SizeRule, category_ids: Iterable[int] | None = None) -> UsedRule:
    """Say how a rule measured these objects, for the tables that show it.

    Returns:
        Of ``area`` whose area it was: ``annotation`` if one that the annotations give is another than that of its box,
        else ``area`` (the box's). ``long_side`` is what it says.
    """
    if rule != "area":
        return rule
    objects = _objects(ground_truth, category_ids)
    own, boxes = objects.sizes("area"), box_sizes(objects.boxes, "area")
    return "area" if np.allclose(own, boxes, rtol=1e-5) else "annotation"


def _objects(ground_truth: Mapping[str, Any], category_ids: Iterable[int] | None) -> Objects:
    wanted = None if category_ids is None else set(category_ids)
    return flat_objects((box for box in ground_truth["annotations"] if not box.get("iscrowd", 0)), wanted)
