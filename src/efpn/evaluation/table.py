"""One evaluation as Markdown that one can read: its numbers, and where it loses objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from efpn.markdown import MISSING, escaped, fact_list, markdown_table, number
from efpn.metrics.bands import suffix
from efpn.metrics.evaluation import Evaluation, Metrics
from efpn.metrics.funnel import Funnel

CLASS_METRICS: Final = ("AP", "AP_S")  # of each class in tables
RULES: Final = {
    "long_side": "longer side of the box",
    "area": "square root of the box's area",
    "annotation": "square root of the annotation's own area, of the box's where it gives none",
}
FILTERED = {
    "proposals": "Boxes that the RPN gives, one for each anchor, and the step at which they go; means of all images.",
    "detections": "Boxes that the head gives, one for each class of each proposal, and the step at which they go (the "
    "score is the model's own `score_thresh`, not that of the tables above); means of all images.",
}
STEPS = {
    "top_n": "beyond a level's number before NMS",
    "score": "score below the model's",
    "size": "too small",
    "nms": "NMS",
    "cap": "beyond the cap",
    "kept": "kept",
}


def gain_over(mine: Mapping[str, Any], base: Mapping[str, Any], metric: str) -> float | None:
    """What a row gains over the first one, as tables show it; None for the first itself or where either has none."""
    value, other = mine.get(metric), base.get(metric)
    return None if value is None or other is None or mine is base else round(value - other, 3)


def class_lines(rows: Sequence[Evaluation]) -> list[tuple[str, int, list[Metrics]]]:
    """Of each class, commonest first: its name, its objects, and its metrics in every row."""
    first = rows[0]
    return [
        (first.class_names[key], objects, [one.by_class[key] for one in rows])
        for key, objects in first.class_objects.items()
    ]


def report_table(record: Mapping[str, Any]) -> str:
    """Of a ``metrics.json``: totals, AP and AR by size, accuracy, recall and F1 by size, and the facts."""
    metrics, best = record["metrics"], record["metrics_at_best_f1"]
    rules, thresholds, objects = record["rules"], record["thresholds"], record["objects"]
    totals = [name for name in ("AP", "AP50", "AP75", "AR") if name in metrics]
    by_area = []
    for name, band in rules["ap_bands"].items():
        numbers = [number(metrics.get(f"{metric}{suffix(name)}")) for metric in ("AP", "AR")]
        by_area.append([band_name(name, band, rules["ap_edges"]), str(objects["ap"][name]), *numbers])

    taken = [(f"score >= {thresholds['fixed']:.2f}", metrics)]
    said = f"Threshold: {thresholds['fixed']:.2f}, fixed."
    if best is not None:
        taken.append((f"score >= {thresholds['best_f1']:.2f}", best))
        chosen = thresholds["best_f1_chosen_on"]
        said = f"Thresholds: {thresholds['fixed']:.2f}, fixed; {thresholds['best_f1']:.2f}, best F1 on {chosen}."
    rates = {"acc": "accuracy", "rec": "recall", "F1": "F1"}
    by_side = []
    for name, band in rules["f1_bins"].items():
        numbers = [number(one.get(f"{rate}{suffix(name)}")) for _, one in taken for rate in rates]
        by_side.append([band_name(name, band), str(objects["f1"][name]), *numbers])

    facts = {key: record[key] for key in ("command", "commit", "seed")}
    facts["wall time"] = None if record["seconds"] is None else f"{record['seconds']:.0f} s"
    facts |= {"hardware": record["hardware"], **record["more"]}
    parts = [
        f"# {escaped(record['name'])} on {escaped(record['split'])}",
        f"{record['images']} images, {record['detections']} detections, {record['categories']} evaluated classes.",
        markdown_table(totals, [[number(metrics[name]) for name in totals]]),
        "## COCO AP and AR by size",
        f"IoU 0.50:0.95, at most {rules['ap_max_dets']} detections per image and class. "
        f"Size: {RULES[rules['ap_size_rule']]}, native pixels.",
        markdown_table(["size", "objects", "AP", "AR"], by_area),
        "## TT100K accuracy, recall and F1 by size",
        f"IoU > {rules['f1_iou']}. Size: {RULES[rules['f1_size_rule']]}, native pixels. {said}",
        markdown_table(["size", "objects", *(f"{rate}, {at}" for at, _ in taken for rate in rates.values())], by_side),
        "## Where this comes from",
        fact_list(facts, missing="not recorded"),
    ]
    return "\n\n".join(parts) + "\n"


def band_name(name: str, band: Sequence[float | None], edges: str = "half_open") -> str:
    """``small [0, 32)``, or ``[0, 32]`` where both ends belong to it; a band without upper end as ``large >= 96``."""
    low, high = band
    if high is None or not math.isfinite(high):
        return name if not low else f"{name} >= {low:g}"
    return f"{name} [{low:g}, {high:g}{']' if edges == 'closed' else ')'}"


def funnel_markdown(funnel: Funnel, title: str = "Where objects get lost") -> str:
    """Misses, false alarms, proposals and RoIs by size band, with the rules they were counted by.

    Causes that can be told but never happened are left out of the tables.
    """
    bands = list(funnel.by_band.values())
    misses, alarms = (
        [cause for cause in (sides[0] if sides else {}) if any(one[cause] != 0 for one in sides)]
        for sides in ([one.misses for one in bands], [one.false_alarms for one in bands])
    )
    recalls = [f"recall@{k}" for k in (bands[0].rpn_recall if bands else ())]
    levels = list(next((one.roi_levels for one in bands if one.roi_levels), {}))
    caps = "They were not recorded."
    if funnel.cap is not None:
        caps = (
            f"The box head is given {funnel.cap} an image, {funnel.depth} were recorded; {funnel.detections_cap} "
            "detections an image are kept, at any score."
        )
    fates, false_alarms, proposals, rois = [], [], [], []
    for name, one in funnel.by_band.items():
        size = band_name(name, funnel.bands[name])
        counts = [one.hits, *(one.misses[cause] for cause in misses)]
        known = [
            MISSING if count is None or not one.objects else f"{count} ({100 * count / one.objects:.1f} %)"
            for count in counts
        ]
        fates.append([size, str(one.objects), *known])
        numbers = [sum(one.false_alarms.values()), *(one.false_alarms[cause] for cause in alarms)]
        false_alarms.append([size, *map(str, numbers)])
        proposals.append([size, *map(number, [*one.rpn_recall.values(), one.rpn_cap, one.detection_cap])])
        read = [number((one.roi_levels or {}).get(level)) for level in levels]
        rois.append([size, MISSING if one.rois is None else str(one.rois), *read])

    missed, false = ([cause.replace("_", " ") for cause in causes] for causes in (misses, alarms))
    parts = [
        f"# {escaped(title)}",
        f"Score >= {funnel.score_threshold:.2f}. Size: {RULES[funnel.size_rule]}, native pixels; a hit follows its "
        "ground truth, a false alarm its own size. Every miss and every false alarm has one cause, the first that "
        "holds in the order of `efpn.metrics.causes`; in brackets the share of the ground truths.",
        "## Ground truths: found, or why missed",
        markdown_table(["size", "objects", "found", *missed], fates),
        "## False alarms",
        markdown_table(["size", "all", *false], false_alarms),
        "## Proposals and caps",
        f"Recall of the proposals at IoU > 0.5, by how many are taken. {caps}",
        markdown_table(["size", *recalls, "beyond the RPN's cap", "beyond the detections' cap"], proposals),
        "## RoIs by the level they are pooled from",
        markdown_table(["size", "RoIs", *levels], rois),
    ]
    for kind, steps in funnel.filtered.items():
        head = ["boxes an image", *(STEPS[step] for step in steps)]
        means = [f"{count:.1f}" for count in (sum(steps.values()), *steps.values())]
        parts += [f"## Where {kind} are filtered out", FILTERED[kind], markdown_table(head, [means])]
    return "\n\n".join(parts) + "\n"
