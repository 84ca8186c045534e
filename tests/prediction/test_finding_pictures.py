"""Which files are looked at, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from efpn.errors import UserError
from efpn.prediction.pictures import check_out, find_pictures


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Two cameras with pictures of one name, and what is no picture."""
    folder = tmp_path / "shots"
    for name in (
        "left/1.jpg",
        "left/2.PNG",
        "right/1.jpg",
        "right/deep/3.tif",
        "notes.txt",
        "left/.4.jpg",
        ".old/5.jpg",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(out: Path, *words: str | Path) -> list[str]:
    return [picture.name for picture in find_pictures([str(word) for word in words], out)]


def test_a_folder_is_searched_to_the_bottom(shots, tmp_path):
    assert names(tmp_path / "out", shots) == ["left/1.jpg", "left/2.PNG", "right/1.jpg", "right/deep/3.tif"]


def test_numbers_count_from_1(shots, tmp_path):
    assert [picture.number for picture in find_pictures([str(shots)], tmp_path / "out")] == [1, 2, 3, 4]


def test_a_single_picture(shots, tmp_path):
    assert names(tmp_path / "out", shots / "left" / "1.jpg") == ["1.jpg"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("*/1.jpg", ["left/1.jpg", "right/1.jpg"]),
        ("**/*.tif", ["right/deep/3.tif"]),
        ("r*", ["right/1.jpg", "right/deep/3.tif"]),
        ("left/*", ["1.jpg", "2.PNG"]),
    ],
)
def test_a_glob_is_named_from_its_first_wildcard(shots, tmp_path, pattern, expected):
    assert names(tmp_path / "out", shots / pattern) == expected


def test_several_places_share_one_folder_so_that_no_names_clash(shots, tmp_path):
    assert names(tmp_path / "out", shots / "right", shots / "left" / "1.jpg") == [
        "left/1.jpg",
        "right/1.jpg",
        "right/deep/3.tif",
    ]


def test_a_picture_asked_for_twice_is_looked_at_once(shots, tmp_path):
    assert names(tmp_path / "out", shots / "left", shots / "left" / "*.jpg", shots / ".." / "shots" / "left") == [
        "1.jpg",
        "2.PNG",
    ]


def test_a_name_with_brackets_is_a_name(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert names(tmp_path / "out", tmp_path / "a[1].jpg") == ["a[1].jpg"]


def test_earlier_results_are_no_input(shots):
    (shots / "out" / "pictures").mkdir(parents=True)
    (shots / "out" / "pictures" / "1.jpg").touch()
    assert names(shots / "out", shots / "*") == ["left/1.jpg", "left/2.PNG", "right/1.jpg", "right/deep/3.tif"]


@pytest.mark.parametrize(
    "word, message",
    [
        ("nowhere", "pictures=.*nowhere: no such file or folder"),
        ("*.webp", r"pictures=.*\*\.webp: matches no picture; looked for files that end in \.jpg"),
        (".old", r"pictures=.*\.old: holds no picture"),
        ("notes.txt", "pictures=.*notes.txt: no picture by its ending"),
    ],
)
def test_what_is_not_there_is_named(shots, tmp_path, word, message):
    (shots / ".old" / "5.jpg").unlink()
    with pytest.raises(UserError, match=message):
        names(tmp_path / "out", shots, shots / word)


def test_an_empty_list_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"pictures=\[\]: nothing to look at"):
        names(tmp_path)


def test_annotated_pictures_never_replace_the_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.jpg").touch()
    pictures = find_pictures([str(tmp_path / "pictures" / "1.jpg")], tmp_path)
    with pytest.raises(UserError, match=r"out=.*: would write over the picture .*pictures/1\.jpg; give another folder"):
        check_out(pictures, tmp_path / "pictures")
    check_out(pictures, tmp_path / "other")
