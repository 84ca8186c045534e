"""Look through a data set before anything trains on it. No torch.

Everything that is wrong is listed in one error, each with file, record and fix. What can be mended without a doubt (a
box that hangs over the image's edge, a box without area) is mended, counted and reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efpn.data.images import ImageError, probe_image
from efpn.data.reading import repeated
from efpn.data.records import Index, Record
from efpn.errors import SHOWN, Problem, UserError, raise_problems, told
from efpn.given import look_like_corners

log = logging.getLogger(__name__)

OpenImages = Literal["all", "header", "none"]
OnError = Literal["error", "skip"]
Mask = NDArray[np.bool_]
THREADS = 16  # header reads wait for the disk, not for the processor


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    name: str  # the split
    images: int  # left
    boxes: int
    empty: int  # images left that have no box
    clipped: tuple[Problem, ...]  # boxes that hung over the edge of their image
    zero_area: tuple[Problem, ...]  # boxes without area, removed
    problems: tuple[Problem, ...]  # what was skipped, with ``on_error="skip"``: these images and boxes are left out

    def __str__(self) -> str:
        found = f"{self.name}: {self.images} images ({self.empty} without a box), {self.boxes} boxes"
        parts = [
            f"{len(self.clipped)} boxes clipped to the image" if self.clipped else "",
            f"{len(self.zero_area)} boxes without area removed" if self.zero_area else "",
            f"{len(self.problems)} broken images or boxes left out" if self.problems else "",
        ]
        return "; ".join([found, *filter(None, parts)])


@dataclass(frozen=True)
class _Checked:
    record: Record | None
    problems: tuple[Problem, ...] = ()
    clipped: tuple[Problem, ...] = ()
    zero_area: tuple[Problem, ...] = ()


def check_index(
    index: Index, *, open_images: OpenImages = "header", on_error: OnError = "error"
) -> tuple[Index, CheckReport]:
    """Check every image and box of one split as read.

    `open_images` reads each image's ``header`` (and decodes those whose file ends too early), decodes ``all``, or opens
    ``none`` (then whether boxes lie inside is known only where the annotations give sizes). `on_error` raises all
    problems at once, or leaves the images and boxes concerned out. Returns the mended index, free of problems, with the
    sizes of all opened images; and the report.

    Raises:
        UserError: all problems, or the split is empty.
    """
    check = partial(_check_record, index=index, open_images=open_images)
    with ThreadPoolExecutor(THREADS) as pool:
        checked = list(pool.map(check, index.records, chunksize=64))
    _require_width_and_height(index, checked)
    duplicates = [
        Problem(index.source, f"image {image_id}", f"duplicate id, {count} times", "make ids unique")
        for image_id, count in repeated(record.image_id for record in index.records).items()
    ]
    problems = (*index.problems, *duplicates, *(p for one in checked for p in one.problems))
    if on_error == "error":
        raise_problems(index.name, problems)
    first_by_id = {one.record.image_id: one.record for one in reversed(checked) if one.record is not None}
    mended = replace(index, records=tuple(first_by_id.values())[::-1], problems=())
    if not mended.records:
        raise UserError(f"{index.name}: the split is empty; check data.splits and {index.source}")
    report = CheckReport(
        name=mended.name,
        images=len(mended),
        boxes=mended.box_count,
        empty=sum(len(record.boxes) == 0 for record in mended.records),
        clipped=tuple(p for one in checked for p in one.clipped),
        zero_area=tuple(p for one in checked for p in one.zero_area),
        problems=problems,
    )
    return mended, report


def log_report(report: CheckReport) -> None:
    """Log the line of the report, and below it what was mended or skipped: many of one kind in one line."""
    log.log(logging.WARNING if report.problems else logging.INFO, "%s", report)
    for level, found in (
        (logging.WARNING, report.problems),
        (logging.INFO, report.clipped),
        (logging.INFO, report.zero_area),
    ):
        for line in told(found)[:SHOWN]:
            log.log(level, "  %s", line)


def _require_width_and_height(index: Index, checked: list[_Checked]) -> None:
    """Refuse a COCO json whose boxes are corners: clipped to their images they would train as huge objects."""
    sizes = {one.record.image_id: one.record.size for one in checked if one.record is not None and one.record.size}
    rows = [(*box, *sizes[r.image_id][::-1]) for r in index.records if r.image_id in sizes for box in r.boxes]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    given = np.hstack([table[:, :2], table[:, 2:4] - table[:, :2]])  # x, y, width, height, as in the file
    over = look_like_corners(given, table[:, 4:])
    if over is not None:
        raise UserError(
            f"{index.source}: {int(over.sum())} of {len(table)} boxes reach beyond their images, such as "
            f"{given[over][0].tolist()}: they look like corners (x1, y1, x2, y2); give x, y, width, height"
        )


def _check_record(record: Record, index: Index, open_images: OpenImages) -> _Checked:
    size = record.size
    if open_images != "none":
        try:
            size = probe_image(record.path, decode=open_images == "all")
        except ImageError as error:
            return _Checked(None, (Problem(record.path, f"image {record.image_id}", error.what, error.fix),))
    if record.size is not None and size is not None and size != record.size:
        said = f"{record.size[1]} x {record.size[0]}"
        what = f"{record.path.name} is {size[1]} x {size[0]} pixels, the annotations say {said}"
        fix = "correct width and height, or restore the image"
        return _Checked(None, (Problem(index.source, f"image {record.image_id}", what, fix),))
    return _check_boxes(replace(record, size=size), index)


def _check_boxes(record: Record, index: Index) -> _Checked:
    corners, other = record.boxes[:, :2], record.boxes[:, 2:]
    height, width = record.size if record.size is not None else (np.inf, np.inf)
    inside = np.clip(record.boxes, 0.0, [width, height, width, height])
    image = "the image " + ("" if record.size is None else f"of {width} x {height} pixels")
    unknown: Mask = (record.labels < 1) | (record.labels > len(index.categories))
    infinite: Mask = np.asarray(~np.isfinite(record.boxes).all(axis=1))
    inverted: Mask = ~infinite & (other < corners).any(axis=1)
    flat: Mask = ~infinite & ~inverted & (other == corners).any(axis=1)
    outside: Mask = ~infinite & ~inverted & ~flat & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    over: Mask = ~infinite & ~inverted & ~flat & ~outside & (inside != record.boxes).any(axis=1)

    def named_problems(mask: Mask, what: str, fix: str) -> Iterator[Problem]:
        for row in np.flatnonzero(mask):
            label = int(record.labels[row])
            named = index.categories.names[label - 1] if 1 <= label <= len(index.categories) else f"label {label}"
            said = ", ".join(f"{value:g}" for value in record.boxes[row])
            where = f"image {record.image_id} ({record.path.name}), box {row + 1} ({named}: {said})"
            yield Problem(index.source, where, what, fix)

    problems = (
        *named_problems(unknown, "has an unknown category", f"labels are 1 to {len(index.categories)}"),
        *named_problems(infinite, "is not a number throughout", "give four finite numbers or remove the box"),
        *named_problems(inverted, "is inverted", "swap its corners or remove it"),
        *named_problems(outside, f"lies outside {image}", "correct or remove it"),
    )
    bad = unknown | infinite | inverted | outside | flat
    mended = replace(record, boxes=inside) if over.any() else record
    return _Checked(
        mended.keep(~bad) if bad.any() else mended,
        problems,
        tuple(named_problems(over, f"hangs over the edge of {image}", "clipped")),
        tuple(named_problems(flat, "has no area", "removed")),
    )
