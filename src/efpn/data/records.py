"""What an annotation file says, in memory: records (images), categories, an index of one split; and how to read it.

Boxes here are ``(x1, y1, x2, y2)``, continuous, in pixels of the image file ("native"). No torch.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efpn.errors import Problem, UserError
from efpn.given import load_json

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False, init=False)
class Record:
    """One image and its ground truth.

    Arrays may be given as lists; a `size`, crowds or areas that are not given are unknown, none and unknown.

    Raises:
        UserError: a field is of the wrong kind, or lists differ in length.
    """

    image_id: int  # the data set's own id
    path: Path
    boxes: NDArray[np.float64]  # ``(n, 4)`` xyxy, native pixels
    labels: NDArray[np.int64]  # ``(n,)`` 1 to K
    size: tuple[int, int] | None  # (height, width) in native pixels; None where the format does not say (TT100K)
    crowd: NDArray[np.bool_]  # ``(n,)`` no objects, but regions that training and COCO evaluation ignore
    area: NDArray[np.float64]  # ``(n,)`` square native pixels, as annotated (in MS COCO the outline's), NaN where not

    def __init__(
        self,
        image_id: int,
        path: str | Path,
        boxes: ArrayLike,
        labels: ArrayLike,
        size: tuple[int, int] | None = None,
        crowd: ArrayLike | None = None,
        area: ArrayLike | None = None,
    ) -> None:
        try:
            corners = np.asarray(boxes, np.float64)
            corners = corners.reshape(-1, 4) if corners.size == 0 else corners
            count = len(corners)
            given: dict[str, Any] = {
                "image_id": operator.index(image_id),
                "path": Path(path),
                "boxes": corners,
                "labels": _whole(labels),
                "size": None if size is None else (operator.index(size[0]), operator.index(size[1])),
                "crowd": np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
                "area": np.full(count, np.nan) if area is None else np.asarray(area, np.float64),
            }
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"Record of image {image_id} ({path}): {error}; see A data format in CONTRIBUTING.md"
            ) from error
        if corners.shape != (count, 4):
            raise UserError(f"Record of image {image_id} ({path}): boxes is {corners.shape}; it has to be (n, 4)")
        for name, shape in (("labels", (count,)), ("crowd", (count,)), ("area", (count,))):
            if given[name].shape != shape:
                raise UserError(
                    f"Record of image {image_id} ({path}): {name} is {given[name].shape}; with {count} boxes it has to "
                    f"be {shape}"
                )
        vars(self).update(given)

    @cached_property
    def trainable(self) -> NDArray[np.bool_]:
        """Which boxes train: all but crowds, ``(n,)`` bool."""
        return ~self.crowd

    def keep(self, mask: NDArray[np.bool_]) -> Record:
        """The same image with only the boxes of `mask` ``(n,)``."""
        fields = ("boxes", "labels", "crowd", "area")
        return replace(self, **{name: getattr(self, name)[mask] for name in fields})


@dataclass(frozen=True)
class Categories:
    """The classes of a data set; label 0 is the background, label k is entry k - 1 here."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # category ids used in COCO-format files
    evaluated: tuple[bool, ...]  # whether a class counts in the tables (TT100K: 45 classes do); all train

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.ids) == len(self.evaluated):
            raise ValueError("names, ids and evaluated differ in length")
        for what, values in (("name", self.names), ("id", self.ids)):
            repeated = sorted({str(v) for v in values if values.count(v) > 1})
            if repeated:
                raise UserError(f"categories: {what} given more than once: {', '.join(repeated)}; make each unique")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> dict[str, int]:
        """Label (1 to K) by class name."""
        return {name: label for label, name in enumerate(self.names, 1)}

    @cached_property
    def label_of_id(self) -> dict[int, int]:
        """Label (1 to K) by category id of the file."""
        return {number: label for label, number in enumerate(self.ids, 1)}

    @property
    def evaluated_labels(self) -> tuple[int, ...]:
        """Labels that count in the tables, ascending."""
        return tuple(label for label, counts in enumerate(self.evaluated, 1) if counts)

    @property
    def evaluated_ids(self) -> tuple[int, ...]:
        """Category ids (of COCO-format files) that count in the tables, in the order of labels."""
        return tuple(self.ids[label - 1] for label in self.evaluated_labels)


@dataclass(frozen=True)
class Index:
    """One split of one data set."""

    name: str  # for people, such as ``tt100k_mosaic/test``
    source: Path  # the annotation file
    categories: Categories  # shared by all splits
    records: tuple[Record, ...]  # the images
    problems: tuple[Problem, ...] = ()  # what the reader left out; it cannot be trained on, `check_index` reports them

    def __len__(self) -> int:
        return len(self.records)

    @property
    def box_count(self) -> int:
        """Boxes of all images, crowds included."""
        return sum(len(record.boxes) for record in self.records)

    def to_coco(self) -> dict[str, Any]:
        """COCO ground truth in native pixels: ``images``, ``annotations`` (xywh, area, iscrowd) and ``categories``.

        The area is the annotation's own where it gives one, else width times height of the box. Width and height of a
        image are there only where known. Annotation ids count from 1 (COCOeval takes 0 for "no match").
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for record in self.records:
            path, folder = record.path, self.source.parent
            name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
            size = {} if record.size is None else dict(zip(("height", "width"), record.size, strict=True))
            images.append({"id": record.image_id, "file_name": name, **size})
            xywh = np.hstack([record.boxes[:, :2], record.boxes[:, 2:] - record.boxes[:, :2]])
            areas = np.where(np.isnan(record.area), xywh[:, 2] * xywh[:, 3], record.area).tolist()
            for box, label, crowd, area in zip(xywh.tolist(), record.labels, record.crowd, areas, strict=True):
                number, category = len(annotations) + 1, self.categories.ids[label - 1]
                whose = {"id": number, "image_id": record.image_id, "category_id": category}
                annotations.append({**whose, "bbox": box, "area": area, "iscrowd": int(crowd)})
        pairs = zip(self.categories.names, self.categories.ids, strict=True)
        categories = [{"id": number, "name": name} for name, number in pairs]
        return {"images": images, "annotations": annotations, "categories": categories}


def _whole(numbers: ArrayLike) -> NDArray[np.int64]:
    """As whole numbers (raises `ValueError`: they are none)."""
    given = np.asarray(numbers)
    whole = given.astype(np.int64)
    if (whole != given).any():
        raise ValueError(f"labels {given.tolist()} are not whole numbers")
    return whole


def require_folder(root: str | Path, option: str = "data.root") -> Path:
    """The folder `root` (raises `UserError`: it is missing, with the config `option`)."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"data folder {folder} {state}; give the right one with {option}=FOLDER")
    return folder


def read_json_object(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """The JSON object in `path` (raises `UserError`: it cannot be read, is no object or lacks one of `keys`)."""
    layout = "check the data set's layout or data.root"
    content = load_json(path, "fetch it again, or give the right one", kind="annotation file", missing=layout)
    if not isinstance(content, dict):
        raise UserError(
            f"annotation file {path} holds a {type(content).__name__}, not an object; is it the right file?"
        )
    if lacking := [repr(key) for key in keys if key not in content]:
        raise UserError(f"annotation file {path} lacks the key {', '.join(lacking)}; is it the right format?")
    return content


def repeated(values: Iterable[Key]) -> dict[Key, int]:
    """The values that occur more than once, with their counts, in order of first occurrence."""
    return {value: count for value, count in Counter(values).items() if count > 1}
