"""Look through a data set before anything trains on it. No torch.

Everything that is wrong is listed in one error, each with file, record and fix. What can be mended without a doubt (a
box that hangs over the image's edge, a box without area) is mended, counted and reported.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efpn.data.images import ImageError, probe_image
from efpn.data.records import Index, Record, repeated
from efpn.errors import SHOWN, Problem, UserError, raise_problems, told
from efpn.given import require_width_and_height

log = logging.getLogger(__name__)

OpenImages = Literal["all", "header", "none"]
OnError = Literal["error", "skip"]
Mask = NDArray[np.bool_]
THREADS = 16  # header reads wait for the disk, not for the processor


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    index: Index  # what is left
    clipped: tuple[Problem, ...]  # boxes that hung over the edge of their image
    zero_area: tuple[Problem, ...]  # boxes without area, removed
    problems: tuple[Problem, ...]  # what was skipped, with ``on_error="skip"``: these images and boxes are left out

    def __str__(self) -> str:
        empty = sum(len(record.boxes) == 0 for record in self.index.records)
        found = f"{self.index.name}: {len(self.index)} images ({empty} without a box), {self.index.box_count} boxes"
        parts = [
            f"{len(self.clipped)} boxes clipped to the image" if self.clipped else "",
            f"{len(self.zero_area)} boxes without area removed" if self.zero_area else "",
            f"{len(self.problems)} broken images or boxes left out" if self.problems else "",
        ]
        return "; ".join([found, *filter(None, parts)])


def check_index(
    index: Index, *, open_images: OpenImages = "header", on_error: OnError = "error"
) -> tuple[Index, CheckReport]:
    """Check every image and box of one split as read.

    `open_images` reads each image's ``header`` (and decodes those whose file ends too early), decodes ``all``, or opens
    ``none`` (then whether boxes lie inside is known only where the annotations give sizes). `on_error` raises all
    problems at once in a `UserError`, or leaves the images and boxes concerned out. Returns the mended index, free of
    problems, with the sizes of all opened images; and the report.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        check = partial(_opened, index=index, open_images=open_images)
        opened = list(pool.map(check, index.records, chunksize=64))
    sound = [one for one in opened if isinstance(one, Record)]
    _require_no_corners(index, sound)
    problems = [*index.problems]
    for image_id, count in repeated(record.image_id for record in index.records).items():
        what = f"duplicate id, {count} times"
        problems.append(Problem(index.source, f"image {image_id}", what, "make ids unique"))
    clipped: list[Problem] = []
    flat: list[Problem] = []
    records: dict[int, Record] = {}
    for one in opened:
        if isinstance(one, Problem):
            problems.append(one)
        else:
            records.setdefault(one.image_id, _mended(one, index, problems, clipped, flat))
    if on_error == "error":
        raise_problems(index.name, problems, "mend them, or go on without them: data.on_unreadable=skip")
    mended = replace(index, records=tuple(records.values()), problems=())
    if not mended.records:
        raise UserError(f"{index.name}: the split is empty; check data.splits and {index.source}")
    return mended, CheckReport(mended, tuple(clipped), tuple(flat), tuple(problems))


def log_report(report: CheckReport) -> None:
    """Log the line of the report, and below it what was mended or skipped: many of one kind in one line."""
    log.log(logging.WARNING if report.problems else logging.INFO, "%s", report)
    for found in (report.problems, report.clipped, report.zero_area):
        for line in told(found)[:SHOWN]:
            log.log(logging.WARNING if found is report.problems else logging.INFO, "  %s", line)


def _require_no_corners(index: Index, records: list[Record]) -> None:
    """Refuse a COCO json whose boxes are corners: clipped to their images they would train as huge objects."""
    rows = [(*box, *record.size[::-1]) for record in records if record.size for box in record.boxes]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    given = np.hstack([table[:, :2], table[:, 2:4] - table[:, :2]])  # x, y, width, height, as in the file
    require_width_and_height(given, table[:, 4:], index.source)


def _opened(record: Record, index: Index, open_images: OpenImages) -> Record | Problem:
    """The record with the size of its image, if that can be opened and is what the annotations say."""
    if open_images == "none":
        return record
    try:
        size = probe_image(record.path, decode=open_images == "all")
    except ImageError as error:
        return Problem(record.path, f"image {record.image_id}", error.what, error.fix)
    if record.size not in (None, size):
        said, found = (f"{width} x {height}" for height, width in (record.size, size))
        what = f"{record.path.name} is {found} pixels, the annotations say {said}"
        fix = "correct width and height, or restore the image"
        return Problem(index.source, f"image {record.image_id}", what, fix)
    return replace(record, size=size)


def _mended(
    record: Record, index: Index, problems: list[Problem], clipped: list[Problem], flat: list[Problem]
) -> Record:
    """The record's sound boxes, clipped to its image; what is wrong with the others goes into the lists."""
    boxes, labels, count = record.boxes, record.labels, len(index.categories)
    corners, other = boxes[:, :2], boxes[:, 2:]
    height, width = record.size or (np.inf, np.inf)
    inside = np.clip(boxes, 0.0, [width, height, width, height])
    image = "the image " + ("" if record.size is None else f"of {width} x {height} pixels")
    unknown: Mask = (labels < 1) | (labels > count)
    infinite: Mask = np.asarray(~np.isfinite(boxes).all(axis=1))
    inverted: Mask = ~infinite & (other < corners).any(axis=1)
    empty: Mask = ~infinite & ~inverted & (other == corners).any(axis=1)
    bad = infinite | inverted | empty
    outside: Mask = ~bad & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    over: Mask = ~bad & ~outside & (inside != boxes).any(axis=1)
    for mask, into, what, fix in (
        (unknown, problems, "has an unknown category", f"labels are 1 to {count}"),
        (infinite, problems, "is not a number throughout", "give four finite numbers or remove the box"),
        (inverted, problems, "is inverted", "give sides above 0 (corners: x1 < x2, y1 < y2) or remove it"),
        (outside, problems, f"lies outside {image}", "correct or remove it"),
        (over, clipped, f"hangs over the edge of {image}", "clipped"),
        (empty, flat, "has no area", "removed"),
    ):
        for row in np.flatnonzero(mask):
            label = int(labels[row])
            named = f"label {label}" if unknown[row] else index.categories.names[label - 1]
            said = ", ".join(f"{value:g}" for value in boxes[row])
            where = f"image {record.image_id} ({record.path.name}), box {row + 1} ({named}, corners {said})"
            into.append(Problem(index.source, where, what, fix))
    bad |= unknown | outside
    return replace(record, boxes=inside).keep(~bad) if (bad | over).any() else record
