"""The metrics of `score` on resampled images: matched once, after which a resample costs milliseconds.

Shapes: ``B`` resamples of ``I`` images are a table ``(B, I)`` of how often each has drawn each image. Matches never
cross images, so that a resample only weighs them: where every image is drawn once, the numbers are `score`'s own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands, Boxes, Truth, suffix
from efpn.metrics.coco import judged
from efpn.metrics.matching import Matcher
from efpn.metrics.score import as_one_class, metric_names

RECALLS: Final = np.linspace(0.0, 1.0, 101)
BATCH: Final = 100  # resamples at a time: what they take should stay in the processor's cache
BEST: Final = "best_"  # before a rate: at the threshold of best F1 on the validation split
COLUMN: Final = re.compile(r"(?P<best>best_)?(?P<what>AP|AR|acc|rec|F1)(?P<iou>50|75)?(?P<tail>_[A-Z])?(?P<any>_any)?$")
Ranking = list[list["Ranked"]]  # of one band, by class and IoU threshold


def column_names() -> list[str]:
    """What `Resampled` can work out."""
    every = metric_names()
    return [*every, *(f"{BEST}{name}" for name in every if not name.startswith("A"))]


class Ranked(NamedTuple):
    """The detections of one class that count in one size band at one IoU, best first."""

    images: np.ndarray  # (n,) places of their images, up to the last hit: what follows it changes neither AP nor AR
    hits: np.ndarray  # (h,) places of the hits among them
    truths: np.ndarray  # (I,) objects of the class in the band, by image

    def scored(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and the highest recall ``(B,)`` of the resamples, NaN in those without an object, as COCOeval has them."""
        truths = counts @ self.truths
        if not len(self.hits):
            nothing = np.where(truths > 0, 0.0, np.nan)
            return nothing, nothing
        drawn = counts[:, self.images]
        total = np.cumsum(drawn, axis=1, dtype=np.int32)[:, self.hits]
        found = np.cumsum(drawn[:, self.hits], axis=1)
        recall = found / np.where(truths > 0, truths, np.nan)[:, None]
        best = np.maximum.accumulate((found / np.maximum(total, 1))[:, ::-1], axis=1)[:, ::-1]
        reached = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=1, prepend=0)
        precision = (best * reached).sum(axis=1) / len(RECALLS)
        return np.where(truths > 0, precision, np.nan), recall[:, -1]


class Resampled:
    """Metrics (``columns``, of `column_names`) of one set of detections under resampling of its images.

    The images of ``truth`` in the order of their ids are the ``I``; ``thresholds`` are the fixed one of accuracy,
    recall and F1, and that of best F1 if there is one.
    """

    def __init__(
        self,
        truth: Truth,
        detections: Boxes,
        category_ids: Sequence[int],
        columns: Sequence[str],
        thresholds: tuple[float, float | None],
    ) -> None:
        self.images = sorted(image["id"] for image in truth["images"])
        self.asked = [match.groupdict("") for name in columns if (match := COLUMN.match(name))]
        self.rankings: dict[tuple[str, str], Ranking] = {}  # by the ends of the columns that are read from them
        self.tables: dict[tuple[str, str], np.ndarray] = {}  # (I, 3) hits, detections and objects of each image
        ranked = {(one["tail"], one["any"]) for one in self.asked if one["what"] in ("AP", "AR")}
        for merged in sorted({merged for _, merged in ranked}):
            bands = {suffix(name): band for name, band in COCO_BANDS.items() if (suffix(name), merged) in ranked}
            given = (truth, detections, list(category_ids))
            if merged:
                given = (*as_one_class(truth, detections, category_ids), [1])
            rankings = self._ranked(*given, bands)
            self.rankings |= {(tail, merged): one for tail, one in zip(bands, rankings, strict=True)}
        matcher = Matcher.of(truth, detections, category_ids)
        bins = {suffix(name): band for name, band in TT100K_BINS.items()}
        for best, threshold in zip(("", BEST), thresholds, strict=True):
            every = [] if threshold is None else zip(bins, matcher.inside(threshold, bins.values()), strict=True)
            for tail, masks in every:
                sides = (matcher.found.images, matcher.found.images, matcher.truth.images)
                places = [np.searchsorted(self.images, side[mask]) for side, mask in zip(sides, masks, strict=True)]
                drawn = [np.bincount(place, minlength=len(self.images)) for place in places]
                self.tables[tail, best] = np.stack(drawn, axis=1)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """``(B, columns)`` values under ``(B, I)`` counts, in the order of the columns; NaN for what does not exist."""
        rows = []
        for start in range(0, len(counts), BATCH):
            chunk = counts[start : start + BATCH].astype(np.int32)
            # (classes, IoU thresholds, AP or AR, B)
            scored = {
                key: np.array([[one.scored(chunk) for one in by_iou] for by_iou in ranking])
                for key, ranking in self.rankings.items()
            }
            rows.append(np.stack([self._column(asked, chunk, scored) for asked in self.asked], axis=1))
        return np.concatenate(rows)

    def _column(
        self, asked: dict[str, str], counts: np.ndarray, scored: dict[tuple[str, str], np.ndarray]
    ) -> np.ndarray:
        """A mean over the IoU thresholds and the classes that a resample holds, or a rate; ``(B,)``."""
        nothing, what = np.full(len(counts), np.nan), asked["what"]
        if what in ("AP", "AR"):
            table = scored[asked["tail"], asked["any"]]
            if not len(table):
                return nothing
            there = ~np.isnan(table[:, 0, 0])
            ious = {"50": [0], "75": [5]}.get(asked["iou"], range(table.shape[1]))
            values = table[:, list(ious), int(what == "AR")].mean(axis=1)
            total = np.where(there, values, 0.0).sum(axis=0)
            return np.divide(total, there.sum(axis=0), out=nothing, where=there.any(axis=0))
        if (asked["tail"], asked["best"]) not in self.tables:
            return nothing
        hits, detections, objects = (counts @ self.tables[asked["tail"], asked["best"]]).T.astype(float)
        over = {"acc": detections, "rec": objects, "F1": (detections + objects) / 2}[what]
        return np.divide(hits, over, out=nothing, where=(objects > 0) & (over > 0))

    def _ranked(self, truth: Truth, detections: Boxes, wanted: list[int], bands: Bands) -> list[Ranking]:
        """Of each band what COCOeval says of every class, all images in one order; no classes without an object."""
        judge = judged(truth, detections, bands, wanted, each_image=True)
        found, ious = iter(judge._evalImgs_cpp), len(judge.params.iouThrs)  # by class, band and image
        rankings: list[Ranking] = [[] for _ in bands]
        for _ in judge.params.catIds:
            for ranking in rankings:
                # what they are pickled by: [2] scores, [3] which objects are ignored, [0] matches and [4] ignored ones
                states: list[tuple[Any, ...]] = [next(found).__getstate__() for _ in self.images]
                truths = np.array([len(state[3]) - sum(state[3]) for state in states], np.int64)
                if not truths.any():
                    continue
                scores = np.concatenate([np.array(state[2], float) for state in states])
                images = np.repeat(np.arange(len(states)), [len(state[2]) for state in states])
                matched, ignored = (
                    np.concatenate([np.array(state[n], np.int64).reshape(ious, -1) for state in states], axis=1) > 0
                    for n in (0, 4)
                )
                order = np.argsort(-scores, kind="stable")
                ranking.append([])
                for hit, out in zip(matched[:, order], ignored[:, order], strict=True):
                    hits = np.flatnonzero(hit[~out])
                    ranking[-1].append(Ranked(images[order][~out][: hits[-1] + 1 if len(hits) else 0], hits, truths))
        return rankings
