"""Whether a COCO json holds what its format says, before anything reads it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from efpn.errors import Problem
from efpn.given import is_id, is_number, shown

LISTS = ("images", "annotations", "categories")

Fault = tuple[str, str]  # what is wrong, and how to mend it
Rule = tuple[bool, Callable[[Any], bool], str]  # must it be there, is a value good, how to mend it


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_size(value: Any) -> bool:
    return value is None or (is_id(value) and value > 0)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _is_flag(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value in (0, 1))


def _is_area(value: Any) -> bool:
    return value is None or (is_number(value) and value >= 0)


_WHOLE = "each needs a whole number of at most 2^53 as"
_SIZE: Final[Rule] = (False, _is_size, "give it in whole pixels, or leave width and height out")

# Without these, no record of the file can be told from another.
_NEEDED: Final[Mapping[str, Mapping[str, Rule]]] = {
    "images": {
        "id": (True, is_id, f"{_WHOLE} id"),
        "file_name": (True, _is_text, "each needs a text as file_name"),
        "width": _SIZE,
        "height": _SIZE,
    },
    "annotations": {"image_id": (True, is_id, f"{_WHOLE} image_id"), "id": (False, is_id, f"{_WHOLE} id")},
    "categories": {
        "id": (True, is_id, f"{_WHOLE} id"),
        "name": (True, _is_text, "each needs a text as name"),
    },
}
# What is wrong here costs one annotation alone.
_ANNOTATION: Final[Mapping[str, Rule]] = {
    "category_id": (True, is_id, "add it to 'categories' or correct category_id"),
    "bbox": (True, _is_box, "give four finite numbers: x, y, width, height"),
    "iscrowd": (False, _is_flag, "write the number 0 or 1 as iscrowd, or leave it out"),
    "area": (
        False,
        _is_area,
        "give the object's area in square pixels, 0 or more, or leave it out (width x height counts then)",
    ),
}


def shape_problems(content: dict[str, Any], source: Path) -> Iterator[Problem]:
    """Entries of ``images``, ``annotations`` and ``categories`` that no reader could work with.

    Args:
        content: of the file, with these three keys.
        source: the file, for messages.
    """
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


def annotation_fault(annotation: dict[str, Any], category_ids: Mapping[int, int]) -> Fault | None:
    """The first thing that is wrong with one annotation, given the categories that there are."""
    for fault in _faults(annotation, _ANNOTATION):
        return fault
    number = annotation["category_id"]
    return None if number in category_ids else (f"unknown category {number}", _ANNOTATION["category_id"][2])


def _faults(entry: Any, rules: Mapping[str, Rule]) -> Iterator[Fault]:
    if not isinstance(entry, dict):
        yield f"is {shown(entry)}, not an object", "remove it"
        return
    for key, (needed, good, fix) in rules.items():
        if key not in entry and needed:
            yield f"lacks {key}", fix
        elif key in entry and not good(entry[key]):
            yield f"{key} is {shown(entry[key])}", fix
