"""What a prediction refuses before it loads a model, and how it goes on after a damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import config

from efpn.errors import UserError
from efpn.prediction.images import ImageFile
from efpn.prediction.run import build_task
from efpn.prediction.writing import JOURNAL, Journal
from efpn.runs.files import require_place
from efpn.runs.saved import latest_run


@pytest.mark.parametrize("damage", [b"\x00\x00\x00\n", b'{"image": \n', b"\xff\xfe\n"])
def test_a_damaged_line_of_the_journal_ends_what_is_read_back(damage: bytes, tmp_path: Path) -> None:
    images = [ImageFile(number, tmp_path / name, name) for number, name in enumerate("abc", 1)]
    for image in images:
        image.path.touch()
    entry = {"width": 1, "height": 1, "found": []}
    begun = Journal(tmp_path / "out", {"terms": 1}, images)
    for image in images:
        begun.add(image.path, entry)
    file = tmp_path / "out" / JOURNAL
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    again = Journal(tmp_path / "out", {"terms": 1}, images)
    assert list(again.entries) == [images[0].path]
    again.add(images[1].path, entry)
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 3


def test_a_detail_that_nothing_reads_is_refused(trained: Path) -> None:
    cfg = config("predict", f"run={trained}/baseline", "images=x", "detail=doubled")
    with pytest.raises(UserError, match="detail: the baseline phase in .* has no P2' for it to serve"):
        build_task(cfg, latest_run(cfg.run))


def test_a_place_that_cannot_be_written_to_is_named_and_nothing_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for taken in ("file", "gone"):
        with pytest.raises(NotADirectoryError, match=rf"Not a directory: '{tmp_path / taken}'"):
            require_place(tmp_path / taken / "a/b")
    require_place(tmp_path / "new/folder")
    assert not (tmp_path / "new").exists()
