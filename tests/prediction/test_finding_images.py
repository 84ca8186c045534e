"""Which files are looked at, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from efpn.errors import UserError
from efpn.prediction.images import check_out, find_images


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Two cameras with images of one name, and what is no image."""
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
    return [image.name for image in find_images([str(word) for word in words], out)]


def test_a_folder_is_searched_to_the_bottom(shots, tmp_path):
    assert names(tmp_path / "out", shots) == ["left/1.jpg", "left/2.PNG", "right/1.jpg", "right/deep/3.tif"]


def test_numbers_count_from_1(shots, tmp_path):
    assert [image.number for image in find_images([str(shots)], tmp_path / "out")] == [1, 2, 3, 4]


def test_a_single_image(shots, tmp_path):
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


def test_an_image_asked_for_twice_is_looked_at_once(shots, tmp_path):
    assert names(tmp_path / "out", shots / "left", shots / "left" / "*.jpg", shots / ".." / "shots" / "left") == [
        "1.jpg",
        "2.PNG",
    ]


def test_a_name_with_brackets_is_a_name(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert names(tmp_path / "out", tmp_path / "a[1].jpg") == ["a[1].jpg"]


def test_earlier_results_are_no_input(shots):
    (shots / "out" / "images").mkdir(parents=True)
    (shots / "out" / "images" / "1.jpg").touch()
    assert names(shots / "out", shots / "*") == ["left/1.jpg", "left/2.PNG", "right/1.jpg", "right/deep/3.tif"]


@pytest.mark.parametrize(
    "word, message",
    [
        ("nowhere", "images=.*nowhere: no such file or folder"),
        ("*.webp", r"images=.*\*\.webp: matches no image; looked for files that end in \.jpg"),
        (".old", r"images=.*\.old: holds no image"),
        ("notes.txt", "images=.*notes.txt: no image by its ending"),
    ],
)
def test_what_is_not_there_is_named(shots, tmp_path, word, message):
    (shots / ".old" / "5.jpg").unlink()
    with pytest.raises(UserError, match=message):
        names(tmp_path / "out", shots, shots / word)


def test_an_empty_list_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"images=\[\]: nothing to look at"):
        names(tmp_path)


def test_annotated_images_never_replace_the_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    images = find_images([str(tmp_path / "images" / "1.jpg")], tmp_path)
    with pytest.raises(UserError, match=r"out=.*: would write over the image .*images/1\.jpg; give another folder"):
        check_out(images, tmp_path / "images")
    check_out(images, tmp_path / "other")
