"""Whether a COCO json holds what its format says, before anything reads it. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efpn.data.records import Problem

LISTS = ("images", "annotations", "categories")


def shape_problems(content: dict[str, Any], source: Path) -> Iterator[Problem]:
    """Entries of ``images``, ``annotations`` and ``categories`` that no reader could work with.

    Args:
        content: of the file, with these three keys.
        source: the file, for messages.
    """
    for key in LISTS:
        entries = content[key]
        if not isinstance(entries, list):
            yield Problem(source, f"'{key}'", f"is {_shown(entries)}, not a list", "make it a list of objects")
            continue
        for number, entry in enumerate(entries):
            for what, fix in _FAULTS[key](entry) if isinstance(entry, dict) else [_no_object(entry)]:
                yield Problem(source, f"{key}[{number}]", what, fix)
    if content["categories"] == []:
        yield Problem(source, "'categories'", "is empty", "list each class with id and name")


def _image_faults(image: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _whole_number(image, "id")
    yield from _text(image, "file_name")
    for key in ("width", "height"):
        value = image.get(key)
        if value is not None and (not _is_whole(value) or value <= 0):
            yield f"{key} is {_shown(value)}", "give it in whole pixels, or leave width and height out"


def _annotation_faults(annotation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _whole_number(annotation, "image_id")
    if "id" in annotation:
        yield from _whole_number(annotation, "id")


def _category_faults(category: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _whole_number(category, "id")
    yield from _text(category, "name")


_FAULTS = {"images": _image_faults, "annotations": _annotation_faults, "categories": _category_faults}


def _no_object(entry: Any) -> tuple[str, str]:
    return f"is {_shown(entry)}, not an object", "remove it"


def _whole_number(entry: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    if not _is_whole(entry.get(key)):
        yield _missing_or_wrong(entry, key), f"each needs a whole number as {key}"


def _text(entry: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(entry.get(key), str) or not entry[key]:
        yield _missing_or_wrong(entry, key), f"each needs a text as {key}"


def _missing_or_wrong(entry: dict[str, Any], key: str) -> str:
    return f"{key} is {_shown(entry[key])}" if key in entry else f"lacks {key}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
