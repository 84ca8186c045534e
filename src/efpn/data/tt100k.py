"""Tsinghua-Tencent 100K (Zhu et al., CVPR 2016): the 2016 layout and that of the 2021 release.

``root/annotations.json`` (2021: ``annotations_all.json``) holds ``types`` (class names) and ``imgs`` by id, each with
``path`` and ``objects`` (``category`` and ``bbox`` with xmin, ymin, xmax, ymax); ``root/{train,test,other}/ids.txt``
list the ids of a split. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from efpn.data.records import Categories, Index, Record, read_json_object, repeated, require_folder
from efpn.errors import Problem, UserError
from efpn.given import is_number, shown

# Those with >= 100 instances in train + test of the 2016 release: what the papers' tables count.
_PAPER_45 = (
    "i2 i4 i5 il100 il60 il80 io ip p10 p11 p12 p19 p23 p26 p27 p3 p5 p6 pg ph4 ph4.5 ph5 pl100 pl120 pl20 pl30 pl40 "
    "pl5 pl50 pl60 pl70 pl80 pm20 pm30 pm55 pn pne po pr40 w13 w32 w55 w57 w59 wo"
)
CLASSES_45: tuple[str, ...] = tuple(_PAPER_45.split())
NAMED_LISTS: dict[str, tuple[str, ...]] = {"paper45": CLASSES_45}
ANNOTATION_FILES = ("annotations.json", "annotations_all.json")
OTHER = "other"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIGITS = 15  # of an id, which has to survive a float
PICTURE = "each image needs a text as path and a list as objects"
OBJECT = "each object needs category and bbox {xmin, ymin, xmax, ymax}, of finite numbers"

Evaluated = Mapping[str, Any] | Sequence[str] | str | None


class TT100K:
    """Reader of a data set in the TT100K layout.

    Raises:
        UserError: no folder, no annotation file or two of them, or an unknown class.
    """

    def __init__(
        self,
        root: str | Path,  # folder with the annotation file and the split folders
        # which classes count in the tables: ``{"min_count": 100, "splits": ["train", "test"]}`` selects by counting, a
        # list names them, ``"paper45"`` is the papers' list, None takes all. All classes train
        evaluated: Evaluated = None,
        others: Literal["separate", "merged"] = "separate",  # merged: one class ``other`` of all not evaluated
        annotations: str | None = None,  # name of the file in `root`; found by itself when only one is there
    ) -> None:
        if others not in ("separate", "merged"):
            raise UserError(f"data.source.others is {others!r}; it must be 'separate' or 'merged'")
        self.root = require_folder(root)
        names = ANNOTATION_FILES if annotations is None else (annotations,)
        found = [self.root / name for name in names if (self.root / name).is_file()]
        if not found:
            expected = " or ".join(names)
            raise UserError(f"data folder {self.root} has no {expected}; is data.root the folder of a TT100K release?")
        if len(found) > 1:
            choices = " or ".join(f"data.source.annotations={path.name}" for path in found)
            raise UserError(f"data folder {self.root} holds two releases; choose one with {choices}")
        self.annotations = found[0]
        self.evaluated = evaluated
        self.others = others

    def load(self, split: str) -> Index:
        """The images that ``split/ids.txt`` lists; objects and ids that make no sense are in ``problems``."""
        records: list[Record] = []
        problems: list[Problem] = []
        list_file, ids = self._ids(split)
        for image_id, count in repeated(ids).items():
            what = f"duplicate id, listed {count} times"
            problems.append(Problem(list_file, f"image {image_id}", what, "list it once"))
        for image_id in dict.fromkeys(ids):
            entry = self._content["imgs"].get(image_id)
            if entry is None:
                what = f"listed here but not in {self.annotations.name}"
                problems.append(Problem(list_file, f"image {image_id}", what, "remove the id or add its annotation"))
            elif fault := _entry_fault(entry):
                problems.append(Problem(self.annotations, f"image {image_id}", fault, PICTURE))
            else:
                records.append(self._record(image_id, entry, problems))
        return Index(f"{self.root.name}/{split}", self.annotations, self.categories, tuple(records), tuple(problems))

    @cached_property
    def categories(self) -> Categories:
        """Classes in the order of the file's ``types``; with merged others, ``other`` comes last."""
        names = tuple(self._content["types"])
        evaluated = self._evaluated_names()
        if self.others == "merged":
            names = (*(name for name in names if name in evaluated), OTHER)
        ids = tuple(range(1, len(names) + 1))
        return Categories(names, ids, tuple(name in evaluated for name in names))

    def count(self, splits: Iterable[str]) -> Counter[str]:
        """Instances by class name over all images of `splits`."""
        counts: Counter[str] = Counter()
        for split in splits:
            for image_id in dict.fromkeys(self._ids(split)[1]):
                entry = self._content["imgs"].get(image_id, {})
                objects = () if _entry_fault(entry) else entry.get("objects", ())
                counts.update(str(thing.get("category")) for thing in objects if isinstance(thing, dict))
        return counts

    @cached_property
    def _content(self) -> dict[str, Any]:
        content = read_json_object(self.annotations, ("types", "imgs"))
        types, images = content["types"], content["imgs"]
        if not isinstance(types, list) or not types or not all(isinstance(name, str) for name in types):
            raise UserError(f"{self.annotations}: 'types' is {shown(types)}; make it a list of class names")
        if not isinstance(images, dict):
            raise UserError(f"{self.annotations}: 'imgs' is {shown(images)}; make it an object of images by id")
        return content

    def _evaluated_names(self) -> frozenset[str]:
        chosen, types = self.evaluated, self._content["types"]
        if chosen is None:
            return frozenset(types)
        if isinstance(chosen, Mapping):
            if set(chosen) != {"min_count", "splits"}:
                got = ", ".join(map(str, chosen)) or "nothing"
                raise UserError(f"data.source.evaluated needs the keys min_count and splits; it has {got}")
            counts = self.count(chosen["splits"])
            names = frozenset(name for name in types if counts[name] >= chosen["min_count"])
            if not names:
                where = f"{chosen['min_count']} instances in {', '.join(chosen['splits'])}"
                raise UserError(f"{self.annotations}: no class has {where}; lower data.source.evaluated.min_count")
            return names
        if isinstance(chosen, str):
            if chosen not in NAMED_LISTS:
                known = ", ".join(NAMED_LISTS)
                raise UserError(f"data.source.evaluated={chosen} is no known list; take {known}, or give class names")
            chosen = NAMED_LISTS[chosen]
        unknown = [name for name in chosen if name not in types]
        if unknown:
            listed = ", ".join(unknown)
            fix = "name others in data.source.evaluated, or select by {min_count: 100, splits: [train, test]}"
            raise UserError(f"{self.annotations}: evaluated classes not among its types: {listed}; {fix}")
        return frozenset(chosen)

    def _ids(self, split: str) -> tuple[Path, list[str]]:
        path = self.root / split / "ids.txt"
        if not path.is_file():
            raise UserError(f"split {split!r} of {self.root}: {path} does not exist; check data.splits and data.root")
        ids = path.read_text(encoding="utf-8", errors="backslashreplace").split()
        wrong = [token for token in ids if not token.isdecimal() or len(token) > DIGITS]
        if wrong:
            raise UserError(f"{path}: {wrong[0]!r} is not an image id; list one whole number per line")
        return path, ids

    def _record(self, image_id: str, entry: dict[str, Any], problems: list[Problem]) -> Record:
        boxes: list[list[float]] = []
        labels: list[int] = []
        for number, thing in enumerate(entry.get("objects", ())):
            if fault := self._object_fault(thing):
                problems.append(Problem(self.annotations, f"image {image_id}, object {number}", *fault))
                continue
            labels.append(self.categories.label_of.get(thing["category"]) or self.categories.label_of[OTHER])
            boxes.append([float(thing["bbox"][key]) for key in CORNERS])
        return Record(int(image_id), self.root / entry.get("path", f"{image_id}.jpg"), boxes, labels)

    def _object_fault(self, thing: Any) -> tuple[str, str] | None:
        """What is wrong with an object, and how to mend it."""
        if not isinstance(thing, dict):
            return f"is {shown(thing)}, not an object", OBJECT
        name, box = thing.get("category"), thing.get("bbox")
        if "category" not in thing or "bbox" not in thing:
            return f"lacks the field {'bbox' if 'category' in thing else 'category'!r}", OBJECT
        if not isinstance(name, str) or name not in self._content["types"]:
            return f"unknown category {shown(name)}", "add it to 'types' or correct the name"
        if not isinstance(box, dict):
            return f"bbox is {shown(box)}", OBJECT
        for key in CORNERS:
            if not is_number(box.get(key)):
                return f"{key} is {shown(box[key])}" if key in box else f"lacks the field {key!r}", OBJECT
        return None


def _entry_fault(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f"is {shown(entry)}, not an object"
    if not isinstance(entry.get("path", ""), str):
        return f"path is {shown(entry['path'])}"
    objects = entry.get("objects", [])
    return None if isinstance(objects, list) else f"objects is {shown(objects)}, not a list"
