"""The metrics of `score` on resampled images: matched once, after which a resample costs milliseconds.

Shapes: ``B`` resamples of ``I`` images are a table ``(B, I)`` of how often each has drawn each image. Matches never
cross images, so that a resample only weighs them: where every image is drawn once, the numbers are `score`'s own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Boxes, Truth, suffix
from efpn.metrics.coco import judged
from efpn.metrics.matching import Matcher
from efpn.metrics.score import as_one_class, metric_names

RECALLS: Final = np.linspace(0.0, 1.0, 101)
BATCH: Final = 100  # resamples at a time: what they take should stay in the processor's cache
BEST: Final = "best_"  # before a rate: at the threshold of best F1 on the validation split
COLUMN: Final = re.compile(r"(?P<metric>AP|AR)(?P<iou>50|75)?(?P<tail>_[A-Z])?(?P<any>_any)?$")
RATE: Final = re.compile(r"(?P<best>best_)?(?P<rate>acc|rec|F1)(?P<tail>_[A-Z])?$")


def column_names() -> list[str]:
    """What `Resampled` can work out."""
    every = metric_names()
    return [*every, *(f"{BEST}{name}" for name in every if RATE.match(name))]


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
        self.truth, self.detections, self.wanted = truth, detections, list(category_ids)
        self.images = sorted(image["id"] for image in truth["images"])
        self.columns = list(columns)
        self.thresholds = thresholds
        self.parts = [*self._by_rank(), *self._by_rate()]

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """``(B, columns)`` values under ``(B, I)`` counts, in the order of the columns; NaN for what does not exist."""
        chunks = [counts[start : start + BATCH].astype(np.int32) for start in range(0, len(counts), BATCH)]
        rows = [{name: value for part in self.parts for name, value in part(chunk).items()} for chunk in chunks]
        return np.concatenate([np.stack([row[name] for name in self.columns], axis=1) for row in rows])

    def _by_rank(self) -> Iterator[Callable[[np.ndarray], dict[str, np.ndarray]]]:
        """A part for each size band and each way to see the classes that a column of AP or AR asks for."""
        asked: dict[tuple[str, bool], list[tuple[str, re.Match[str]]]] = {}
        for name in self.columns:
            if found := COLUMN.match(name):
                asked.setdefault((found["tail"] or "", bool(found["any"])), []).append((name, found))
        for merged in sorted({merged for _, merged in asked}):
            bands = {name: band for name, band in COCO_BANDS.items() if (suffix(name), merged) in asked}
            for band, ranked in zip(bands, self._ranked(bands, merged), strict=True):
                yield partial(_means, ranked, asked[suffix(band), merged])

    def _ranked(self, bands: Mapping[str, tuple[float, float]], merged: bool) -> list[list[list[Ranked]]]:
        """Of each band and class a list over the IoU thresholds; classes without an object are left out."""
        truth, detections, wanted = self.truth, self.detections, self.wanted
        if merged:
            truth, detections, wanted = *as_one_class(truth, detections, wanted), [1]
        judge = judged(truth, detections, bands, category_ids=wanted, each_image=True)
        found = iter(judge._evalImgs_cpp)  # by class, band and image; the state it is pickled by says what is in it
        tables: list[list[list[Ranked]]] = [[] for _ in bands]
        for _ in judge.params.catIds:
            for table in tables:
                states = [next(found).__getstate__() for _ in self.images]
                if ranked := _rank(states, len(judge.params.iouThrs)):
                    table.append(ranked)
        return tables

    def _by_rate(self) -> Iterator[Callable[[np.ndarray], dict[str, np.ndarray]]]:
        """A part for each column of accuracy, recall or F1."""
        asked = [(name, found) for name in self.columns if (found := RATE.match(name))]
        matcher = Matcher.of(self.truth, self.detections, self.wanted) if asked else None
        for name, found in asked:
            threshold = self.thresholds[bool(found["best"])]
            band = next(band for key, band in TT100K_BINS.items() if suffix(key) == (found["tail"] or ""))
            if matcher is None or threshold is None:
                yield partial(_means, [], [(name, found)])
                continue
            sides = (matcher.found.images, matcher.found.images, matcher.truth.images)
            places = [
                np.searchsorted(self.images, images[mask])
                for images, mask in zip(sides, matcher.inside(threshold, [band])[0], strict=True)
            ]
            table = np.stack([np.bincount(place, minlength=len(self.images)) for place in places], axis=1)
            yield partial(_rate, name, found["rate"], table)


def _rank(states: Sequence[tuple[Any, ...]], ious: int) -> list[Ranked]:
    """What COCOeval says of one class and band on each image, put in one order, for each IoU threshold."""
    truths = np.array([len(state[3]) - sum(state[3]) for state in states], np.int64)  # state[3]: is it ignored
    if not truths.any():
        return []
    scores = np.concatenate([np.array(state[2], float) for state in states])
    images = np.repeat(np.arange(len(states)), [len(state[2]) for state in states])
    matched, ignored = (
        np.concatenate([np.array(state[place], np.int64).reshape(ious, -1) for state in states], axis=1) > 0
        for place in (0, 4)
    )
    order = np.argsort(-scores, kind="stable")
    lists = []
    for hit, out in zip(matched[:, order], ignored[:, order], strict=True):
        hits = np.flatnonzero(hit[~out])
        lists.append(Ranked(images[order][~out][: hits[-1] + 1 if len(hits) else 0], hits, truths))
    return lists


def _means(
    ranked: list[list[Ranked]], wanted: list[tuple[str, re.Match[str]]], counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of one band: means over IoU thresholds and the classes that a resample holds."""
    if not ranked:
        return {name: np.full(len(counts), np.nan) for name, _ in wanted}
    # (classes, IoU thresholds, AP or AR, B)
    table = np.array([[one.scored(counts) for one in by_iou] for by_iou in ranked])
    there = ~np.isnan(table[:, 0, 0])
    columns = {}
    for name, found in wanted:
        ious = {"50": [0], "75": [5]}.get(found["iou"] or "", range(table.shape[1]))
        values = table[:, list(ious), 0 if found["metric"] == "AP" else 1].mean(axis=1)
        total = np.where(there, values, 0.0).sum(axis=0)
        columns[name] = np.divide(total, there.sum(axis=0), out=np.full(len(counts), np.nan), where=there.any(axis=0))
    return columns


def _rate(name: str, rate: str, table: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Column ``name``: accuracy, recall or F1 from ``(I, 3)`` hits, detections and objects of each image."""
    hits, detections, objects = (counts @ table).T.astype(float)
    over = {"acc": detections, "rec": objects, "F1": (detections + objects) / 2}[rate]
    return {name: np.divide(hits, over, out=np.full(len(hits), np.nan), where=(objects > 0) & (over > 0))}
