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

from efpn.metrics.matching import Objects, overlapping

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


class Causes:
    """What explains the misses and false alarms of detections from ``threshold`` on.

    ``truth`` is without crowds, ``found`` holds detections below the threshold too, and ``matched (D,)`` is of
    `Matcher.match` there.
    """

    def __init__(self, truth: Objects, found: Objects, matched: np.ndarray, threshold: float) -> None:
        self.truth, self.found, self.matched, self.threshold = truth, found, matched, threshold
        self.kept = found.scores >= threshold
        self.pairs = {iou: overlapping(truth, found, iou) for iou in (IN_PLACE, NEAR)}
        self.rules = [(IN_PLACE, True), (IN_PLACE, False), (NEAR, True), (NEAR, False)]  # IoU, of one class

    def alarms(self, crowds: Objects) -> np.ndarray:
        """Cause of each false alarm ``(D,)`` of names, ``""`` for all other detections."""
        inside = np.zeros(len(self.found), dtype=bool)
        boxes = self.found.boxes
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        for box, label, image in zip(crowds.boxes, crowds.classes, crowds.images, strict=True):
            sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
            same = (self.found.images == image) & (self.found.classes == label)
            inside |= same & (np.prod(np.maximum(sides, 0.0), axis=1) > area / 2)
        rules = [*(self._touched(*rule) for rule in self.rules), inside]
        causes = np.select(rules, FALSE_ALARMS[:-1], FALSE_ALARMS[-1])
        return np.where((self.matched < 0) & self.kept, causes, "")

    def misses(self, rank: np.ndarray | None, cut_score: np.ndarray | None, cap: int) -> np.ndarray:
        """Cause of each miss ``(G,)`` of names, ``""`` for hits.

        ``rank (G,)`` is the place of the best proposal in place, inf without one; ``cut_score (G,)`` the best score of
        what the cap of detections cut off, -inf without any; both None where they were not recorded.
        """
        telling = self.kept & (self.matched < 0) & ~self._touched(IN_PLACE, True)
        rules = [self._reached(*rule, by=telling) for rule in self.rules[1:]]
        weak = self._reached(IN_PLACE, True, by=~self.kept)
        nothing = np.zeros(len(self.truth), dtype=bool)
        if rank is None or cut_score is None:
            rules += [nothing, weak, nothing, nothing]
        else:
            rules += [cut_score >= self.threshold, weak | (rank < cap), np.isfinite(rank), ~nothing]
        causes = np.select(rules, MISSES[:-1], MISSES[-1])
        return np.where(np.isin(np.arange(len(self.truth)), self.matched), "", causes)

    def _touched(self, iou: float, same: bool) -> np.ndarray:
        """``(D,)`` bool: which detections overlap with a ground truth of the same (or of another) class."""
        pairs, alike = self.pairs[iou]
        return np.isin(np.arange(len(self.found)), pairs[alike == same, 1])

    def _reached(self, iou: float, same: bool, by: np.ndarray) -> np.ndarray:
        """``(G,)`` bool: which ground truths the detections ``by (D,)`` of the same (or another) class overlap with."""
        pairs, alike = self.pairs[iou]
        return np.isin(np.arange(len(self.truth)), pairs[(alike == same) & by[pairs[:, 1]], 0])


def least_in_place(truth: Objects, found: Objects, values: np.ndarray, any_class: bool = False) -> np.ndarray:
    """``(G,)`` float: the least of ``values (D,)`` among what is in place, of the same class or any; else ``inf``."""
    least = np.full(len(truth), np.inf)
    pairs, same = overlapping(truth, found, IN_PLACE)
    chosen = pairs[same | any_class]
    np.minimum.at(least, chosen[:, 0], values[chosen[:, 1]])
    return least
