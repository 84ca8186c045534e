"""What an annotation file says, in memory: records (images), categories, an index of one split; and how to read it.

Boxes here are ``(x1, y1, x2, y2)``, continuous, in pixels of the image file ("native"). No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from efpn.errors import Problem, UserError
from efpn.given import load_json

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Record:
    """One image and its ground truth."""

    image_id: int  # the data set's own id
    path: Path
    size: tuple[int, int] | None  # (height, width) in native pixels; None where the format does not say (TT100K)
    boxes: NDArray[np.float64]  # ``(n, 4)`` xyxy, native pixels
    labels: NDArray[np.int64]  # ``(n,)`` 1 to K
    crowd: NDArray[np.bool_]  # ``(n,)`` no objects, but regions that training and COCO evaluation ignore
    area: NDArray[np.float64]  # ``(n,)`` square native pixels, as annotated (in MS COCO the outline's), NaN where not

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


def make_record(
    image_id: int,
    path: Path,
    boxes: Sequence[Sequence[float]] | NDArray[np.float64],
    labels: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    crowd: Sequence[bool] | None = None,
    area: Sequence[float] | None = None,
) -> Record:
    """A `Record` from plain lists; `boxes` are xyxy in native pixels, `area` is NaN where a box has none of its own."""
    return Record(
        image_id=image_id,
        path=path,
        size=size,
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        crowd=np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool),
        area=np.full(len(labels), np.nan) if area is None else np.asarray(area, np.float64),
    )
