"""ImageFile files of every kind: read as 8-bit RGB, or refused by name before anything trains."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efpn.data.check import check_index
from efpn.data.dataset import DetectionDataset
from efpn.data.images import ImageError, probe_image, read_image, read_smaller
from efpn.data.transforms import EvalTransform
from efpn.errors import UserError

RAMP = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
BIT8 = (RAMP >> 8).astype(np.uint8)
RED = (200, 10, 10)


def saved(path: Path, pixels: np.ndarray | Image.Image, **options) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    pixels = read_image(saved(tmp_path / f"a{suffix}", RAMP))
    assert pixels.dtype == np.uint8 and pixels.min() == 0 and pixels.max() == 255
    np.testing.assert_array_equal(pixels, np.stack([BIT8] * 3, axis=2))


def grey_tiff(path: Path, data: bytes, bits: int, photometric: int) -> Path:
    """A TIFF of RAMP's size, of a kind that Pillow reads and does not write."""
    height, width = RAMP.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + table + bytes(4))
    return path


def test_a_tiff_of_twelve_bits_is_not_nearly_black(tmp_path):
    first, second = (RAMP.reshape(-1, 2) >> 4).astype(int).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    pixels = read_image(grey_tiff(tmp_path / "a.tif", packed.tobytes(), bits=12, photometric=1))
    np.testing.assert_array_equal(pixels[..., 0], BIT8)


def test_a_tiff_of_sixteen_bits_whose_zero_is_white_is_no_negative(tmp_path):
    pixels = read_image(grey_tiff(tmp_path / "a.tif", (65535 - RAMP).tobytes(), bits=16, photometric=0))
    np.testing.assert_array_equal(pixels[..., 0], BIT8)


def test_floats_from_0_to_1_are_scaled(tmp_path):
    pixels = read_image(saved(tmp_path / "a.tif", (RAMP / 65535).astype(np.float32)))
    assert pixels.max() == 255 and np.abs(pixels[..., 0].astype(int) - BIT8).max() <= 1


@pytest.mark.parametrize(
    "values, said", [([0.0, 254.5], "floats from 0 to 254.5"), ([0.0, np.nan], "floats from nan to nan")]
)
def test_floats_of_another_range_are_refused_before_training(index, values, said):
    broken = index([])
    path = saved(broken.records[0].path.with_suffix(".tif"), np.resize(np.array(values, np.float32), (30, 40)))
    with pytest.raises(UserError, match=rf"0\.tif: image 0: holds {said}; known are .* save it with 8 or 16 bits"):
        check_index(replace(broken, records=(replace(broken.records[0], path=path),)))


def test_integers_of_unknown_range_are_refused_by_their_header(tmp_path):
    path = saved(tmp_path / "a.tif", RAMP.astype(np.int32))
    for read in (lambda: probe_image(path, decode=False), lambda: read_image(path)):
        with pytest.raises(ImageError, match="holds 32-bit numbers, of which nobody knows which is white; save it"):
            read()


def test_what_is_transparent_is_shown_on_white(tmp_path):
    see_through = Image.new("RGBA", (40, 30), (*RED, 0))
    see_through.paste((*RED, 255), (0, 0, 20, 30))
    palette = see_through.convert("RGB").quantize(2)
    index = palette.getpixel((0, 0))
    holes = Image.new("P", (40, 30), 1)
    holes.putpalette([*RED, 0, 0, 0])
    holes.paste(0, (0, 0, 20, 30))
    for n, path in enumerate(
        [
            saved(tmp_path / "rgba.png", see_through),
            saved(tmp_path / "palette.png", holes, transparency=1),
            saved(tmp_path / "key.png", holes.convert("RGB"), transparency=(0, 0, 0)),
        ]
    ):
        pixels = read_image(path)
        assert (pixels[:, :20] == RED).all() and (pixels[:, 20:] == 255).all(), n
    assert (read_image(saved(tmp_path / "p.png", palette, transparency=index)) == 255).all()
    grey = read_image(saved(tmp_path / "la.png", Image.new("LA", (40, 30), (200, 0))))
    assert (grey == 255).all()


def test_palette_grey_bilevel_and_cmyk(tmp_path):
    assert (read_image(saved(tmp_path / "p.gif", Image.new("RGB", (40, 30), RED).quantize(4))) == RED).all()
    assert (read_image(saved(tmp_path / "l.jpg", np.full((30, 40), 90, np.uint8))) == 90).all()
    assert (read_image(saved(tmp_path / "1.png", Image.new("1", (40, 30), 1))) == 255).all()
    inks = read_image(saved(tmp_path / "cmyk.jpg", Image.new("CMYK", (40, 30), (200, 10, 10, 0)), quality=95))
    assert np.abs(inks.astype(int) - (55, 245, 245)).max() <= 3


@pytest.fixture
def photo(tmp_path, image) -> Path:
    return image(tmp_path / "photo.jpg", 203, 171)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_jpeg_has_the_values_that_pillow_gives(photo, factor):
    with Image.open(photo) as image:
        image.draft(None, (203 // factor, 171 // factor))
        expected = np.asarray(image.convert("RGB"))
    pixels, done = read_smaller(photo, lambda height, width: factor)
    np.testing.assert_array_equal(pixels, expected)
    assert done == factor


def cut_in_the_middle(path: Path) -> Path:
    """Take bytes out of the middle; the file ends as a whole one."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 3000 :])
    return path


def test_a_jpeg_cut_in_the_middle_is_found_by_decoding_all(index, image):
    broken = index([], [])
    cut_in_the_middle(image(broken.records[0].path, 200, 200))
    assert len(check_index(broken, open_images="header")[0]) == 2  # its end is there
    with pytest.raises(UserError, match=r"0\.jpg: image 0: cannot be read \(truncated or damaged: .*premature end"):
        check_index(broken, open_images="all")
    assert len(check_index(broken, open_images="all", on_error="skip")[0]) == 1


def test_a_cmyk_jpeg_cut_in_the_middle_is_found_too(tmp_path, photo):
    path = saved(tmp_path / "ink.jpg", Image.open(photo).convert("CMYK"))
    assert probe_image(path, decode=True)
    cut_in_the_middle(path)
    with pytest.raises(ImageError, match=r"ink\.jpg: cannot be read \(truncated or damaged"):
        probe_image(path, decode=True)


def test_without_that_check_it_is_named_or_passed_over_in_training(index, image):
    broken = index([], [])
    cut_in_the_middle(image(broken.records[0].path, 200, 200))
    with pytest.raises(ImageError, match=r"image .*0\.jpg: cannot be read \(truncated or damaged: .*premature end"):
        DetectionDataset(broken, EvalTransform(20, 40))[0]
    going_on = DetectionDataset(broken, EvalTransform(20, 40), on_unreadable="skip")
    assert int(going_on[0][1]["image_id"]) == 1 and going_on.unreadable == 1


def test_a_jpeg_that_lacks_its_end_alone_or_has_bytes_too_many_is_whole(photo):
    whole, expected = photo.read_bytes(), read_image(photo)
    for data in (whole[:-2], whole[:-2] + bytes(100) + whole[-2:]):
        photo.write_bytes(data)
        probe_image(photo, decode=True)
        np.testing.assert_array_equal(read_image(photo), expected)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_whatever_is_wrong_with_a_file_is_named(tmp_path, photo):
    """Bytes at random: no error but our own."""
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png", ".tif", ".bmp", ".webp", ".gif"):
        whole = saved(tmp_path / f"whole{suffix}", Image.open(photo)).read_bytes()
        for _ in range(25):
            data = np.frombuffer(whole, np.uint8)[: rng.integers(1, len(whole))].copy()
            data[rng.integers(0, min(len(data), 300), 4)] = rng.integers(0, 256, 4)
            (tmp_path / f"broken{suffix}").write_bytes(data.tobytes())
            try:
                read_image(tmp_path / f"broken{suffix}")
            except ImageError as error:
                assert error.what and error.fix


def test_an_image_of_180_million_pixels_is_one_as_any_other(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("1", (13_400, 13_400)))
    assert probe_image(path, decode=False) == (13_400, 13_400)
