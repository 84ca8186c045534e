"""Why an object was missed, and what a false alarm is: one cause for each, in the manner of TIDE (Bolya et al., 2020).

What is a hit is decided by :class:`efpn.metrics.matching.Matcher`, as for accuracy and recall: same class, IoU strictly
above 0.5, one-to-one. ``G`` ground truths and ``D`` detections of all images lie in a row, native pixels. *In place*
means an IoU above 0.5, *near* an IoU above 0.1.

The cause of a false alarm is the first of these that holds:

1. ``duplicate``: in place on an object of its class, which another detection has taken;
2. ``classification``: in place on an object of another class;
3. ``localisation``: near an object of its class;
4. ``both``: near an object of another class;
5. ``crowd``: more than half of it lies in a crowd region of its class (COCO alone has those);
6. ``background``: none of these.

The cause of a miss is the first of these that holds; a duplicate explains no miss:

1. ``classification``: a false alarm of another class is in place;
2. ``localisation``: a false alarm of its class is near;
3. ``both``: a false alarm of another class is near;
4. ``detection_cap``: a detection of its class was in place, but the cap of detections per image cut it off;
5. ``low_score``: a detection of its class is in place below the score threshold, or the box head was given a proposal
   in place and made no detection of its class of it;
6. ``rpn_cap``: it was proposed, but only beyond the proposals that the box head is given;
7. ``never_proposed``: no proposal is in place;
8. ``undetected``: proposals were not recorded, so that 4, 6 and 7 cannot be told, and 5 only from detections.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from efpn.metrics.matching import Matcher, Objects
from efpn.metrics.stages import Stages

FALSE_ALARMS: Final = ("duplicate", "classification", "localisation", "both", "crowd", "background")
MISSES: Final = (
    "classification",
    "localisation",
    "both",
    "detection_cap",
    "low_score",
    "rpn_cap",
    "never_proposed",
    "undetected",
)
IN_PLACE: Final = 0.5
NEAR: Final = 0.1


def alarm_causes(truth: Objects, crowds: Objects, found: Objects, alarm: np.ndarray) -> np.ndarray:
    """Cause of each false alarm (bool ``alarm (D,)``), ``(D,)`` of names, ``""`` for all other detections."""
    place, near = _Pairs(truth, found, IN_PLACE), _Pairs(truth, found, NEAR)
    rules = [place.touched(True), place.touched(False), near.touched(True), near.touched(False)]
    causes = np.select([*rules, _in_crowd(crowds, found)], FALSE_ALARMS[:-1], FALSE_ALARMS[-1])
    return np.where(alarm, causes, "")


def miss_causes(truth: Objects, found: Objects, matched: np.ndarray, score: float, stages: Stages | None) -> np.ndarray:
    """Cause of each miss, ``(G,)`` of names, ``""`` for hits.

    ``truth`` is without crowds, ``found`` holds detections below the threshold ``score`` too, and ``matched`` is of
    :meth:`Matcher.match` there; ``stages`` is None where they were not recorded.
    """
    place, near = _Pairs(truth, found, IN_PLACE), _Pairs(truth, found, NEAR)
    kept = found.scores >= score
    telling = kept & (matched < 0) & ~place.touched(True)
    rules = [place.reached(False, telling), near.reached(True, telling), near.reached(False, telling)]
    nothing = np.zeros(len(truth), dtype=bool)
    weak = place.reached(True, ~kept)
    if stages is None:
        rules += [nothing, weak, nothing, nothing]
    else:
        given = stages.rank < stages.record.cap
        rules += [stages.cut_score >= score, weak | given, np.isfinite(stages.rank), ~nothing]
    causes = np.select(rules, MISSES[:-1], MISSES[-1])
    return np.where(np.isin(np.arange(len(truth)), matched), "", causes)


def least_in_place(truth: Objects, found: Objects, values: np.ndarray, any_class: bool = False) -> np.ndarray:
    """``(G,)`` float: the least of ``values (D,)`` among what is in place, of the same class or any; else ``inf``."""
    least, pairs = np.full(len(truth), np.inf), _Pairs(truth, found, IN_PLACE)
    chosen = pairs.same | any_class
    np.minimum.at(least, pairs.truth[chosen], values[pairs.found[chosen]])
    return least


class _Pairs:
    """Ground truths and detections that overlap by more than ``iou``, of one class or of two."""

    def __init__(self, truth: Objects, found: Objects, iou: float) -> None:
        self.counts = len(truth), len(found)
        self.truth, self.found = Matcher(truth, found, iou=iou, match_same=False).pairs.T
        self.same = truth.classes[self.truth] == found.classes[self.found]

    def touched(self, same: bool) -> np.ndarray:
        """``(D,)`` bool: which detections overlap with a ground truth of the same (or of another) class."""
        return np.isin(np.arange(self.counts[1]), self.found[self.same == same])

    def reached(self, same: bool, by: np.ndarray) -> np.ndarray:
        """``(G,)`` bool: which ground truths the detections ``by (D,)`` of the same (or another) class overlap with."""
        return np.isin(np.arange(self.counts[0]), self.truth[(self.same == same) & by[self.found]])


def _in_crowd(crowds: Objects, found: Objects) -> np.ndarray:
    """``(D,)`` bool: which detections lie by more than half in a crowd region of their class."""
    inside = np.zeros(len(found), dtype=bool)
    area = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    for box, label, image in zip(crowds.boxes, crowds.classes, crowds.images, strict=True):
        low, high = np.maximum(found.boxes[:, :2], box[:2]), np.minimum(found.boxes[:, 2:], box[2:])
        shared = np.prod(np.maximum(high - low, 0.0), axis=1)
        inside |= (found.images == image) & (found.classes == label) & (shared > area / 2)
    return inside
