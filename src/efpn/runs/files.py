"""The files of a run: their names, written whole or not at all, and as JSON that every reader accepts. No torch."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.given import load_json
from efpn.runs.migration import migrated

RESUME_FILE = "last.ckpt"
CHECKPOINT_FILE = "weights.ckpt"  # of a finished phase
FORMER_FILE = "handover.ckpt"  # what it was called before version 0.2
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
LOCK_FILE = ".lock"
ROW_FILE = "row.json"  # in the folder of a sweep's job: which row of a table it is
PRUNING_FILE = "pruning.json"  # there too: its validations so far, and whether it was given up

CONFIG_KEYS: Final = ("name", "seed", "phases", "data", "model", "trainer")  # without which it is none
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of the finished phase in ``folder``, by the name that it has there or is to have."""
    now, former = folder / CHECKPOINT_FILE, folder / FORMER_FILE
    return former if former.is_file() and not now.is_file() else now


def finished_in(folder: Path, depth: str = "*") -> list[Path]:
    """The checkpoints of all finished phases whose folders match the pattern ``depth`` below ``folder``, sorted."""
    phases = {file.parent for name in (CHECKPOINT_FILE, FORMER_FILE) for file in folder.glob(f"{depth}/{name}")}
    return [checkpoint_in(phase) for phase in sorted(phases)]


def write_text(path: Path, text: str) -> Path:
    """Write a file in one step, so that a killed run leaves the old one or the new one; makes the folder."""
    return write_bytes(path, as_utf8(text))


def as_utf8(text: str) -> bytes:
    r"""UTF-8, in which a byte of a file name that is none (Python's surrogate) is ``\udcff``, as JSON writes it."""
    return text.encode("utf-8", "backslashreplace")


def write_bytes(path: Path, data: bytes) -> Path:
    """As `write_text`, for what is no text (raises `OSError`: it cannot be written; always with the file's name)."""
    make_folder(path.parent)
    partial = path.with_name(f".{zlib.crc32(path.name.encode('utf-8', 'surrogateescape')):08x}.{os.getpid()}.partial")
    with naming(path, len(data)):
        try:
            partial.write_bytes(data)
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it (raises `OSError`: with the path)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # what the system says where it takes none, as below /proc
        raise OSError(errno.EROFS, "no folder can be made there", str(folder)) from None


@contextmanager
def naming(path: Path, size: int | None = None) -> Iterator[None]:
    """Give an `OSError` without a file's name this one, and say what a full disk lacks for ``size`` bytes."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not (size and error.errno in FULL)):
            raise
        reason = error.strerror
        if error.errno in FULL and size:
            free = shutil.disk_usage(path.parent).free
            reason = f"{reason}: {in_units(size)} to be written, {in_units(free)} free"
        raise type(error)(error.errno, reason, str(path)) from error


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise `UserError` if ``folder`` has no room for ``size`` bytes; ``what`` they are, for the message."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{folder}: {what} needs at least {in_units(size)}, {in_units(free)} are free, {in_units(size - free)} are "
            "missing; free some space, or write elsewhere with paths.outputs=FOLDER"
        )


def require_place(folder: Path) -> None:
    """Raise `OSError`, with the path, if ``folder`` can be neither made nor written to; makes nothing."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    number = 0 if os.access(there, os.W_OK) else errno.EACCES
    if number := number if there.is_dir() else errno.ENOTDIR:
        raise OSError(number, os.strerror(number), str(there))


def in_units(size: int) -> str:
    """Bytes for a reader."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def write_json(path: Path, data: Any, *, indent: int | None = None) -> Path:
    """Write JSON in one step; NaN and infinity, which JSON does not know, become null."""
    return write_text(path, json.dumps(plain(data), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def plain(data: Any) -> Any:
    """Numpy numbers, tuples, mappings and paths as what JSON has; a number that is not finite as None."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, str | bool | int | None):
        return data
    if isinstance(data, float | np.floating):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, np.ndarray | np.generic):
        return plain(data.tolist())
    if isinstance(data, Sequence):
        return [plain(value) for value in data]
    return str(data)


def read_json(path: Path, fix: str = "write it with evaluate.py", what: str = "", keys: Iterable[str] = ()) -> Any:
    """Read a JSON file; ``fix`` says how to come by a sound one (raises `UserError`: it is missing or no JSON).

    It has to be an object with these ``keys`` if ``what`` that is is given, in a word.
    """
    content = load_json(path, fix)
    if what and not (isinstance(content, dict) and set(keys) <= set(content)):
        raise UserError(f"{path}: damaged (no {what}); {fix}")
    return content


def read_config(path: Path) -> DictConfig:
    """Read the ``config.yaml`` of a run (raises `UserError`: missing or damaged)."""
    way_out = "copy the one of another phase of the same run here, or train the phase again with overwrite=true"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {way_out}")
    try:
        config = OmegaConf.load(path)
        lacking = [key for key in CONFIG_KEYS if key not in config]
        reason = f"without {', '.join(lacking)}" if lacking else ""
    except Exception as error:  # YAML's, OmegaConf's and the codec's own
        reason = " ".join(str(error).split())
    if reason:
        raise UserError(f"{path}: damaged ({reason}); {way_out}")
    assert isinstance(config, DictConfig)
    return migrated(config)


def read_record(folder: Path) -> dict[str, Any]:
    """What ``metrics.json`` of a phase says; nothing where there is none (raises `UserError`: it is damaged)."""
    path = folder / METRICS_FILE
    fix = "remove it to go on without the record of what the phase started from"
    return read_json(path, fix, "record") if path.is_file() else {}


def as_tt100k_results(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """COCO results in the TT100K layout, every image of the ground truth among them.

    Scores stay from 0 to 1 (the official toolkit's own threshold of 40 is for scores up to 1000).
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    images: dict[str, Any] = {str(image["id"]): {"objects": []} for image in ground_truth["images"]}
    for found in detections:
        x, y, width, height = found["bbox"]
        corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
        thing = {"category": names[found["category_id"]], "score": found["score"], "bbox": corners}
        images[str(found["image_id"])]["objects"].append(thing)
    return {"imgs": images}
