"""COCO-format annotation files: MS COCO itself and any user's own. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from efpn.data.records import Categories, Index, Record, read_json_object, repeated, require_folder
from efpn.errors import Problem, UserError, raise_problems
from efpn.given import is_id, is_number, shown

LISTS = ("images", "annotations", "categories")

Fault = tuple[str, str]  # what is wrong, and how to mend it
Rule = tuple[bool, Callable[[Any], bool], str]  # must it be there, is a value good, how to mend it

_WHOLE = "each needs a whole number of at most 2^53 as"
_SIZE: Final[Rule] = (
    False,
    lambda v: v is None or (is_id(v) and v > 0),
    "give it in whole pixels, or leave width and height out",
)
# Without these, no record of the file can be told from another.
_NEEDED: Final[Mapping[str, Mapping[str, Rule]]] = {
    "images": {
        "id": (True, is_id, f"{_WHOLE} id"),
        "file_name": (True, lambda v: isinstance(v, str) and v != "", "each needs a text as file_name"),
        "width": _SIZE,
        "height": _SIZE,
    },
    "annotations": {"image_id": (True, is_id, f"{_WHOLE} image_id"), "id": (False, is_id, f"{_WHOLE} id")},
    "categories": {
        "id": (True, is_id, f"{_WHOLE} id"),
        "name": (True, lambda v: isinstance(v, str) and v != "", "each needs a text as name"),
    },
}
# What is wrong here costs one annotation alone.
_ANNOTATION: Final[Mapping[str, Rule]] = {
    "category_id": (True, is_id, "add it to 'categories' or correct category_id"),
    "bbox": (
        True,
        lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
        "give four finite numbers: x, y, width, height",
    ),
    "iscrowd": (
        False,
        lambda v: v is None or (isinstance(v, int | float) and v in (0, 1)),
        "write the number 0 or 1 as iscrowd, or leave it out",
    ),
    "area": (
        False,
        lambda v: v is None or (is_number(v) and v >= 0),
        "give the object's area in square pixels, 0 or more, or leave it out (width x height counts then)",
    ),
}


class CocoJson:
    """Reader of one COCO json per split (raises `UserError`: a file is missing, or their categories differ)."""

    def __init__(
        self,
        # by name, ``{"images": folder, "annotations": file}``, relative to `root`. The folder is what ``file_name`` is
        # relative to. Only the splits that are loaded have to exist
        splits: Mapping[str, Mapping[str, str]],
        root: str | Path = ".",  # folder of the data set
        evaluated: Sequence[str] | None = None,  # names of the classes that count in the tables; None takes all
    ) -> None:
        self.root = require_folder(root)
        self.splits = splits
        if not splits:
            fix = "give data.source.splits.train={images: DIR, annotations: FILE}"
            raise UserError(f"data.source.splits is empty; {fix}")
        for split, where in splits.items():
            if not isinstance(where, Mapping) or not {"images", "annotations"} <= set(where):
                raise UserError(f"data.source.splits.{split} is {where}; give {{images: DIR, annotations: FILE}}")
        self.evaluated = evaluated
        self._contents: dict[str, dict[str, Any]] = {}
        self._indices: dict[str, Index] = {}

    def load(self, split: str) -> Index:
        """The images of one split, read once; annotations that make no sense are in ``problems``."""
        if split in self._indices:
            return self._indices[split]
        source = self._source(split)
        folder = require_folder(self.root / self.splits[split]["images"], f"data.source.splits.{split}.images")
        content = self._content(split)
        if {entry["id"]: entry["name"] for entry in content["categories"]} != dict(
            zip(self.categories.ids, self.categories.names, strict=True)
        ):
            first = self._source(self._first)
            raise UserError(
                f"{source}: its categories differ from those of {first}; give both files the same categories"
            )
        problems = _duplicates(content, source)
        images = {image["id"]: image for image in reversed(content["images"])}
        by_image: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
        for number, annotation in enumerate(content["annotations"]):
            name = f"annotation {annotation['id']}" if "id" in annotation else f"annotations[{number}]"
            home = annotation["image_id"]
            fault = next(_faults(annotation, _ANNOTATION), None)
            if home not in images:
                fix = "add the image to 'images' or remove the annotation"
                problems.append(Problem(source, name, f"points to the unknown image {home}", fix))
                continue
            if fault is None and annotation["category_id"] not in self.categories.label_of_id:
                fault = f"unknown category {annotation['category_id']}", _ANNOTATION["category_id"][2]
            if fault is not None:
                problems.append(Problem(source, f"{name} of image {home}", *fault))
            else:
                by_image[home].append(annotation)
        records = [self._record(images[number], by_image[number], folder) for number in sorted(images)]
        name = f"{self.root.resolve().name}/{split}"
        self._indices[split] = Index(name, source, self.categories, tuple(records), tuple(problems))
        self._contents.clear()  # gigabytes for MS COCO; the records are compact
        return self._indices[split]

    @cached_property
    def categories(self) -> Categories:
        """Classes of the first split's file that is there, in its order; category ids need not be contiguous."""
        table, source = self._content(self._first)["categories"], self._source(self._first)
        names, ids = tuple(entry["name"] for entry in table), tuple(entry["id"] for entry in table)
        unknown = [name for name in self.evaluated or () if name not in names]
        if unknown:
            raise UserError(f"{source}: no category named {', '.join(unknown)}; correct data.source.evaluated")
        try:
            return Categories(names, ids, tuple(self.evaluated is None or name in self.evaluated for name in names))
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    @property
    def _first(self) -> str:
        there = (s for s, where in self.splits.items() if (self.root / where["annotations"]).is_file())
        return next(there, next(iter(self.splits)))

    def _source(self, split: str) -> Path:
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise UserError(f"data.splits names the split {split!r}, but data.source.splits has only {known}")
        return self.root / self.splits[split]["annotations"]

    def _content(self, split: str) -> dict[str, Any]:
        source = self._source(split)
        if split not in self._contents:
            content = read_json_object(source, LISTS)
            raise_problems(f"{self.root.resolve().name}/{split}", shape_problems(content, source))
            self._contents[split] = content
        return self._contents[split]

    def _record(self, image: dict[str, Any], annotations: list[dict[str, Any]], folder: Path) -> Record:
        xywh = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
        areas = [annotation.get("area") for annotation in annotations]
        height, width = image.get("height"), image.get("width")
        return Record(
            image["id"],
            folder / image["file_name"],
            np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
            [self.categories.label_of_id[annotation["category_id"]] for annotation in annotations],
            size=None if height is None or width is None else (height, width),
            crowd=[bool(annotation.get("iscrowd")) for annotation in annotations],
            area=[math.nan if area is None else area for area in areas],
        )


def _duplicates(content: dict[str, Any], source: Path) -> list[Problem]:
    images, files = content["images"], {image["id"]: image["file_name"] for image in content["images"]}
    once = "list each file once, with all its annotations"
    found = []
    for kind, values, what, fix in (
        ("image", (image["id"] for image in images), "duplicate id, {} times", "make ids unique"),
        ("file_name", files.values(), "of {} images", once),
        (
            "annotation",
            (a["id"] for a in content["annotations"] if "id" in a),
            "duplicate id, {} times",
            "make ids unique",
        ),
    ):
        found += [Problem(source, f"{kind} {key}", what.format(n), fix) for key, n in repeated(values).items()]
    return found


def shape_problems(content: dict[str, Any], source: Path) -> Iterator[Problem]:
    """Entries of ``images``, ``annotations`` and ``categories`` that no reader could work with."""
    for key in LISTS:
        entries = content[key]
        if not isinstance(entries, list):
            yield Problem(source, f"'{key}'", f"is {shown(entries)}, not a list", "make it a list of objects")
            continue
        for number, entry in enumerate(entries):
            for what, fix in _faults(entry, _NEEDED[key]):
                yield Problem(source, f"{key}[{number}]", what, fix)
    if content["categories"] == []:
        yield Problem(source, "'categories'", "is empty", "list each class with id and name")


def _faults(entry: Any, rules: Mapping[str, Rule]) -> Iterator[Fault]:
    if not isinstance(entry, dict):
        yield f"is {shown(entry)}, not an object", "remove it"
        return
    for key, (needed, good, fix) in rules.items():
        if key not in entry and needed:
            yield f"lacks {key}", fix
        elif key in entry and not good(entry[key]):
            yield f"{key} is {shown(entry[key])}", fix
