"""Where objects get lost, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from efpn.evaluation.table import MISSING, RULES, escaped, markdown_table, number
from efpn.metrics.funnel import BandFunnel, Funnel

Cells = Callable[[BandFunnel], list[str]]


def funnel_markdown(funnel: Funnel, title: str = "Where objects get lost") -> str:
    """Misses, false alarms, proposals and RoIs by size band, with the rules they were counted by.

    Causes that can be told but never happened are left out of the tables.
    """
    bands = list(funnel.by_band.values())
    misses, alarms = _happened([one.misses for one in bands]), _happened([one.false_alarms for one in bands])
    rates = list(bands[0].rpn_recall) if bands else []
    levels = list(next((one.roi_levels for one in bands if one.roi_levels), {}))
    parts = [
        f"# {escaped(title)}",
        _rules(funnel),
        "## Ground truths: found, or why missed",
        _table(funnel, ["objects", "found", *map(_words, misses)], lambda one: _fates(one, misses)),
        "## False alarms",
        _table(funnel, ["all", *map(_words, alarms)], lambda one: _alarms(one, alarms)),
        "## Proposals and caps",
        f"Recall of the proposals at IoU > 0.5, by how many are taken. {_caps(funnel)}",
        _table(
            funnel,
            [*(f"recall@{k}" for k in rates), "beyond the RPN's cap", "beyond the detections' cap"],
            lambda one: [number(value) for value in (*one.rpn_recall.values(), one.rpn_cap, one.detection_cap)],
        ),
        "## RoIs by the level they are pooled from",
        _table(funnel, ["RoIs", *levels], lambda one: _levels(one, levels)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(funnel: Funnel, head: Sequence[str], cells: Cells) -> str:
    rows = []
    for name, one in funnel.by_band.items():
        low, high = funnel.bands[name]
        rows.append([f"{name} [{low:g}, {high:g})", *cells(one)])
    return markdown_table(["size", *head], rows)


def _rules(funnel: Funnel) -> str:
    return (
        f"Score >= {funnel.score_threshold:.2f}. Size: {RULES[funnel.size_rule]}, native pixels; a hit follows its "
        "ground truth, a false alarm its own size. Every miss and every false alarm has one cause, the first that "
        "holds in the order of `efpn.metrics.causes`; in brackets the share of the ground truths."
    )


def _caps(funnel: Funnel) -> str:
    if funnel.cap is None:
        return "They were not recorded."
    return (
        f"The box head is given {funnel.cap} a picture, {funnel.depth} were recorded; {funnel.detections_cap} "
        "detections a picture are kept, at any score."
    )


def _fates(one: BandFunnel, causes: Sequence[str]) -> list[str]:
    counts = [one.hits, *(one.misses[cause] for cause in causes)]
    return [str(one.objects), *(_count(count, one.objects) for count in counts)]


def _alarms(one: BandFunnel, causes: Sequence[str]) -> list[str]:
    return [str(sum(one.false_alarms.values())), *(str(one.false_alarms[cause]) for cause in causes)]


def _levels(one: BandFunnel, levels: Sequence[str]) -> list[str]:
    shares = one.roi_levels or {}
    return [MISSING if one.rois is None else str(one.rois), *(number(shares.get(level)) for level in levels)]


def _count(count: int | None, total: int) -> str:
    if count is None or not total:
        return MISSING
    return f"{count} ({100 * count / total:.1f} %)"


def _happened(bands: Sequence[Mapping[str, int | None]]) -> list[str]:
    """Causes to be shown, in their order: all but those that stand at 0 everywhere."""
    return [cause for cause in (bands[0] if bands else {}) if any(band[cause] != 0 for band in bands)]


def _words(cause: str) -> str:
    return cause.replace("_", " ")
