import dataclasses
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from efpn.data.augment import ColorJitter, HorizontalFlip
from efpn.data.coco import CocoJson
from efpn.data.dataset import DetectionDataset, halve, to_tensor
from efpn.data.images import ImageError, probe_image, read_image, read_smaller
from efpn.data.transforms import EvalTransform, TrainTransform
from efpn.errors import UserError


def test_item_has_the_promised_shapes_and_types(index):
    image, target = DetectionDataset(index([[4, 6, 20, 26]], []), EvalTransform(15, 20))[0]
    assert image.shape == (3, 15, 20) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert target["boxes"].tolist() == [[2, 3, 10, 13]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1] and target["labels"].dtype == torch.int64
    assert target["image_id"].item() == 0 and target["image_id"].dtype == torch.int64
    assert target["scale"].tolist() == [0.5, 0.5]


def test_images_without_boxes_have_empty_targets(index):
    _, target = DetectionDataset(index([]), EvalTransform(15, 20))[0]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform(21, 33),
        EvalTransform(77, 99),
        TrainTransform(24, 32, (0.5, 2.0), crop=24, augment=[ColorJitter(contrast=0.5), HorizontalFlip(0.5)]),
        TrainTransform(24, 32, (0.5, 2.0)),
    ],
)
def test_pairs_are_aligned_pixel_by_pixel(index, transform):
    one = index([[4, 6, 20, 26]])
    pairs, single = DetectionDataset(one, transform, pairs=True), DetectionDataset(one, transform)
    for seed in range(12):
        small, large, target = pairs[0, seed]
        assert large.shape == (3, 2 * small.shape[1], 2 * small.shape[2])
        torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(large, 2), rtol=0, atol=1e-6)
        alone, same = single[0, seed]
        torch.testing.assert_close(alone, small, rtol=0, atol=0)
        torch.testing.assert_close(same["boxes"], target["boxes"], rtol=0, atol=0)


def test_direct_resizing_spares_the_2x_image(index):
    one = index([])
    direct = DetectionDataset(one, EvalTransform(15, 20, direct=True))[0][0]
    native = read_image(one.records[0].path)
    mean = native.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(direct.numpy(), mean, atol=0.51 / 255)


@pytest.fixture
def crowded(coco):
    """A lamp at (4, 5, 14, 17), and a crowd in the right half of an image of 40 x 30."""
    lamp = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [4, 5, 10, 12]}
    crowd = {"id": 2, "image_id": 7, "category_id": 4, "bbox": [20, 0, 20, 30], "iscrowd": 1}
    root = coco(annotations=[lamp, crowd])
    return CocoJson({"train": {"images": "train", "annotations": "train.json"}}, root).load("train")


def test_crowds_are_no_objects_but_regions_to_ignore(crowded):
    _, target = DetectionDataset(crowded, EvalTransform(15, 20))[1]
    assert target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[2, 2.5, 7, 8.5]]
    assert target["ignore_boxes"].tolist() == [[10, 0, 20, 15]] and target["ignore_boxes"].dtype == torch.float32
    assert DetectionDataset(crowded, EvalTransform(15, 20))[0][1]["ignore_boxes"].shape == (0, 4)


def test_crowds_go_with_the_image_through_crop_and_flip(crowded):
    mirror = TrainTransform(30, 40, augment=[HorizontalFlip(1.0)])
    assert DetectionDataset(crowded, mirror)[1][1]["ignore_boxes"].tolist() == [[0, 0, 20, 30]]
    cropped = DetectionDataset(
        crowded, TrainTransform(30, 40, (0.7, 1.5), crop=24, augment=[HorizontalFlip(0.5)]), pairs=True
    )
    seen = 0
    for seed in range(30):
        image, _, target = cropped[1, seed]
        for x1, y1, x2, y2 in target["ignore_boxes"].tolist():
            assert 0 <= x1 < x2 <= image.shape[2] and 0 <= y1 < y2 <= image.shape[1]
            assert x1 == 0 or x2 == pytest.approx(24) or x2 - x1 == pytest.approx(20 * target["scale"][0].item())
            seen += 1
    assert seen > 10


def test_tensor_helpers():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 4)
    assert tensor[1, 0, 2].item() == pytest.approx(7 / 255)
    torch.testing.assert_close(halve(tensor)[0], torch.tensor([[(0 + 3 + 12 + 15) / 4, (6 + 9 + 18 + 21) / 4]]) / 255)


@pytest.fixture
def broken(index):
    four = index([], [], [], [])
    path = four.records[1].path
    path.write_bytes(path.read_bytes()[:-200])
    return four


def test_unreadable_image_names_the_file(broken):
    with pytest.raises(
        ImageError, match=r"image .*1.jpg: cannot be read \(.*truncated.*\); restore it or remove it.*on_unreadable="
    ):
        DetectionDataset(broken, EvalTransform(15, 20))[1]


def test_unreadable_image_is_skipped_with_a_warning_and_a_count(broken, caplog):
    dataset = DetectionDataset(broken, EvalTransform(15, 20), on_unreadable="skip")
    with caplog.at_level(logging.WARNING):
        assert dataset[1][1]["image_id"].item() == 2
    assert dataset.unreadable == 1
    assert "1.jpg: cannot be read" in caplog.text and "(skipped; 1 so far)" in caplog.text


def test_skips_in_workers_are_counted(broken):
    dataset = DetectionDataset(broken, EvalTransform(15, 20), on_unreadable="skip")
    list(DataLoader(dataset, sampler=[0, 1, 2, 1], num_workers=2, collate_fn=list))
    assert dataset.unreadable == 2


def test_a_lost_disk_ends_the_run(index):
    gone = index([], [])
    for record in gone.records:
        record.path.unlink()
    with pytest.raises(UserError, match=r"20 images in a row cannot be read, up to .*jpg; is the disk there\?"):
        DetectionDataset(gone, EvalTransform(15, 20), on_unreadable="skip")[0]


def test_errors_survive_the_way_out_of_a_worker(broken):
    error = ImageError("x.jpg", "is gone")
    assert str(ImageError(str(error))) == str(error)
    loader = DataLoader(DetectionDataset(broken, EvalTransform(15, 20)), num_workers=1, collate_fn=list)
    with pytest.raises(ImageError, match=r"1.jpg: cannot be read"):
        list(loader)


def test_records_travel_to_workers(index):
    record = pickle.loads(pickle.dumps(index([[4, 6, 20, 26]]).records[0]))
    assert record.boxes.tolist() == [[4, 6, 20, 26]]


def test_a_rotation_in_the_exif_data_is_not_applied(tmp_path):
    """Annotations are in pixels of the file as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (30, 40, 3)
    assert probe_image(tmp_path / "turned.jpg", decode=False) == (30, 40)


def draw_photo(path, width, height):
    """A smooth image that its lower frequencies tell well."""
    y, x = np.mgrid[:height, :width] / 40
    planes = [128 + 90 * np.sin(x + phase) * np.cos(y - phase) for phase in (0, 1, 2)]
    Image.fromarray(np.stack(planes, axis=2).astype(np.uint8)).save(path, quality=95)


@pytest.mark.parametrize(
    "factor, sides, by", [(2, 51, 2), (2, 50, 4), (2, 25, 8), (2, 101, 1), (1, 100, 4), (1, 101, 2), (2, 5, 8)]
)
def test_an_image_may_be_read_as_small_as_it_is_needed(factor, sides, by):
    assert TrainTransform(sides, 10_000).shrink(400, 600, factor=factor, seed=0) == by
    assert EvalTransform(sides, 10_000).shrink(400, 600, factor=factor, seed=0) == 1


@pytest.mark.parametrize("size, levels", [((640, 480), 1.5), ((643, 487), 4)])  # a part of a cell moves the last rows
def test_a_jpeg_read_smaller_gives_the_same_sample(index, tmp_path, monkeypatch, size, levels):
    path = tmp_path / "photo.jpg"
    draw_photo(path, *size)
    drawn = index([[40, 60, 200, 260]])
    one = dataclasses.replace(drawn, records=(dataclasses.replace(drawn.records[0], path=path),))
    transform = TrainTransform(60, 80, (0.3, 1.9))
    shrunk = []

    def watched(*args):
        shrunk.append(read_smaller(*args)[1])
        return read_smaller(*args)

    monkeypatch.setattr("efpn.data.dataset.read_smaller", watched)
    smaller = [DetectionDataset(one, transform, pairs=True)[0, seed] for seed in range(12)]
    assert set(shrunk) == {2, 4, 8}
    monkeypatch.setattr(TrainTransform, "shrink", lambda self, height, width, factor, seed: 1)
    whole = [DetectionDataset(one, transform, pairs=True)[0, seed] for seed in range(12)]
    for (_, mine, target), (_, theirs, expected) in zip(smaller, whole, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().mean() < levels / 255
        torch.testing.assert_close(target["scale"], expected["scale"], rtol=0.02, atol=0)
        torch.testing.assert_close(target["boxes"], expected["boxes"], rtol=0, atol=0.6)


def test_crops_of_an_image_read_smaller_hold_their_object(index, tmp_path):
    draw_photo(tmp_path / "photo.jpg", 640, 480)
    drawn = index([[400, 300, 440, 340]])
    one = dataclasses.replace(drawn, records=(dataclasses.replace(drawn.records[0], path=tmp_path / "photo.jpg"),))
    dataset = DetectionDataset(one, TrainTransform(60, 80, crop=24, object_crop_prob=1.0))
    for seed in range(8):
        image, target = dataset[0, seed]
        assert image.shape == (3, 24, 24)
        sides = target["boxes"][0, 2:] - target["boxes"][0, :2]
        torch.testing.assert_close(sides, torch.tensor([5.0, 5.0]), rtol=0.05, atol=0)
        torch.testing.assert_close(target["scale"], torch.tensor([0.125, 0.125]), rtol=0.05, atol=0)


def test_a_strip_thinner_than_what_it_is_shrunk_by_is_read(tmp_path):
    draw_photo(tmp_path / "strip.jpg", 4000, 4)
    pixels, by = read_smaller(tmp_path / "strip.jpg", lambda height, width: 8)
    assert pixels.shape[1] * by == 4000


def test_a_png_is_read_whole(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    pixels, by = read_smaller(tmp_path / "a.png", lambda height, width: 4)
    assert pixels.shape == (30, 40, 3) and by == 1


def test_a_truncated_jpeg_is_named_when_read_smaller_too(tmp_path):
    draw_photo(tmp_path / "a.jpg", 640, 480)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-4000])
    with pytest.raises(ImageError, match="a.jpg"):
        read_smaller(tmp_path / "a.jpg", lambda height, width: 4)
