"""One evaluation as Markdown that one can read: its numbers, and where it loses objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from efpn.markdown import MISSING, escaped, fact_list, markdown_table, number
from efpn.metrics.bands import suffix
from efpn.metrics.funnel import BandFunnel, Funnel

CLASS_METRICS: Final = ("AP", "AP_S")  # of each class in tables
RULES: Final = {
    "long_side": "longer side of the box",
    "area": "square root of the box's area",
    "annotation": "square root of the annotation's own area, of the box's where it gives none",
}


def gain_over(mine: Mapping[str, Any], base: Mapping[str, Any], metric: str) -> float | None:
    """What a row gains over the first one, as tables show it; None for the first itself or where either has none."""
    value, other = mine.get(metric), base.get(metric)
    return None if value is None or other is None or mine is base else round(value - other, 3)


def size_rules(rules: Mapping[str, Any]) -> str:
    """How sizes were measured, in one sentence, for a table that has columns of both protocols.

    Args:
        rules: of ``metrics.json``.
    """
    return (
        f"Sizes in native pixels. AP and AR: {RULES[rules['ap_size_rule']]}. Accuracy, recall and F1: "
        f"{RULES[rules['f1_size_rule']]}."
    )


def report_table(record: Mapping[str, Any]) -> str:
    """The tables of one evaluation: totals, AP and AR by size, accuracy, recall and F1 by size, and the facts.

    Args:
        record: the contents of ``metrics.json``.
    """
    seconds = record["seconds"]
    facts = {
        "command": record["command"],
        "commit": record["commit"],
        "seed": record["seed"],
        "wall time": None if seconds is None else f"{seconds:.0f} s",
        "hardware": record["hardware"],
        **record["more"],
    }
    parts = [
        f"# {escaped(record['name'])} on {escaped(record['split'])}",
        f"{record['images']} images, {record['detections']} detections, {record['categories']} evaluated classes.",
        *_ap_part(record),
        *_f1_part(record),
        "## Where this comes from",
        fact_list(facts, missing="not recorded"),
    ]
    return "\n\n".join(parts) + "\n"


def _ap_part(record: Mapping[str, Any]) -> list[str]:
    metrics, rules, objects = record["metrics"], record["rules"], record["objects"]["ap"]
    totals = [name for name in ("AP", "AP50", "AP75", "AR") if name in metrics]
    rows = [
        [
            band_name(name, band, rules["ap_edges"]),
            str(objects[name]),
            *(number(metrics.get(f"{m}{suffix(name)}")) for m in ("AP", "AR")),
        ]
        for name, band in rules["ap_bands"].items()
    ]
    return [
        markdown_table(totals, [[number(metrics[name]) for name in totals]]),
        "## COCO AP and AR by size",
        f"IoU 0.50:0.95, at most {rules['ap_max_dets']} detections per image and class. "
        f"Size: {RULES[rules['ap_size_rule']]}, native pixels.",
        markdown_table(["size", "objects", "AP", "AR"], rows),
    ]


def _f1_part(record: Mapping[str, Any]) -> list[str]:
    rules, thresholds, best = record["rules"], record["thresholds"], record["metrics_at_best_f1"]
    tables = [(f"score >= {thresholds['fixed']:.2f}", record["metrics"])]
    said = f"Threshold: {thresholds['fixed']:.2f}, fixed."
    if best is not None:
        tables.append((f"score >= {thresholds['best_f1']:.2f}", best))
        chosen = thresholds["best_f1_chosen_on"]
        said = f"Thresholds: {thresholds['fixed']:.2f}, fixed; {thresholds['best_f1']:.2f}, best F1 on {chosen}."
    names = {"acc": "accuracy", "rec": "recall", "F1": "F1"}
    head = ["size", "objects", *(f"{name}, {at}" for at, _ in tables for name in names.values())]
    rows = [
        [
            band_name(name, band),
            str(record["objects"]["f1"][name]),
            *(number(metrics.get(f"{rate}{suffix(name)}")) for _, metrics in tables for rate in names),
        ]
        for name, band in rules["f1_bins"].items()
    ]
    return [
        "## TT100K accuracy, recall and F1 by size",
        f"IoU > {rules['f1_iou']}. Size: {RULES[rules['f1_size_rule']]}, native pixels. {said}",
        markdown_table(head, rows),
    ]


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
    misses, alarms = _happened([one.misses for one in bands]), _happened([one.false_alarms for one in bands])
    rates = list(bands[0].rpn_recall) if bands else []
    levels = list(next((one.roi_levels for one in bands if one.roi_levels), {}))
    caps = "They were not recorded."
    if funnel.cap is not None:
        caps = (
            f"The box head is given {funnel.cap} an image, {funnel.depth} were recorded; {funnel.detections_cap} "
            "detections an image are kept, at any score."
        )

    def fates(one: BandFunnel) -> list[str]:
        counts = [one.hits, *(one.misses[cause] for cause in misses)]
        known = [
            MISSING if count is None or not one.objects else f"{count} ({100 * count / one.objects:.1f} %)"
            for count in counts
        ]
        return [str(one.objects), *known]

    def rois(one: BandFunnel) -> list[str]:
        shares = one.roi_levels or {}
        return [MISSING if one.rois is None else str(one.rois), *(number(shares.get(level)) for level in levels)]

    def table(head: Sequence[str], cells: Callable[[BandFunnel], list[str]]) -> str:
        lows = {name: f"{name} [{low:g}, {high:g})" for name, (low, high) in funnel.bands.items()}
        return markdown_table(["size", *head], [[lows[name], *cells(one)] for name, one in funnel.by_band.items()])

    parts = [
        f"# {escaped(title)}",
        f"Score >= {funnel.score_threshold:.2f}. Size: {RULES[funnel.size_rule]}, native pixels; a hit follows its "
        "ground truth, a false alarm its own size. Every miss and every false alarm has one cause, the first that "
        "holds in the order of `efpn.metrics.causes`; in brackets the share of the ground truths.",
        "## Ground truths: found, or why missed",
        table(["objects", "found", *(cause.replace("_", " ") for cause in misses)], fates),
        "## False alarms",
        table(
            ["all", *(cause.replace("_", " ") for cause in alarms)],
            lambda one: [str(sum(one.false_alarms.values())), *(str(one.false_alarms[cause]) for cause in alarms)],
        ),
        "## Proposals and caps",
        f"Recall of the proposals at IoU > 0.5, by how many are taken. {caps}",
        table(
            [*(f"recall@{k}" for k in rates), "beyond the RPN's cap", "beyond the detections' cap"],
            lambda one: [number(value) for value in (*one.rpn_recall.values(), one.rpn_cap, one.detection_cap)],
        ),
        "## RoIs by the level they are pooled from",
        table(["RoIs", *levels], rois),
        *(_filter_table(kind, steps) for kind, steps in funnel.filtered.items()),
    ]
    return "\n\n".join(parts) + "\n"


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


def _filter_table(kind: str, steps: Mapping[str, float]) -> str:
    """What became of the boxes that were ``proposals`` or ``detections`` to be, an image on average."""
    head = ["boxes an image", *(STEPS[step] for step in steps)]
    return f"## Where {kind} are filtered out\n\n{FILTERED[kind]}\n\n" + markdown_table(
        head, [[f"{sum(steps.values()):.1f}", *(f"{count:.1f}" for count in steps.values())]]
    )


def _happened(bands: Sequence[Mapping[str, int | None]]) -> list[str]:
    """Causes to be shown, in their order: all but those that stand at 0 everywhere."""
    return [cause for cause in (bands[0] if bands else {}) if any(band[cause] != 0 for band in bands)]
