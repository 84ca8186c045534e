"""Steps that the annotation readers share: opening JSON files and making records, with errors that name the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from efpn.data.records import Record
from efpn.errors import UserError
from efpn.given import load_json

Key = TypeVar("Key", bound=Hashable)


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
    boxes: Sequence[Sequence[float]],
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
