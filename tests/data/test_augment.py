"""Augmentations of every origin: boxes go along, both scales are changed alike, and the seed decides."""

import albumentations as A
import numpy as np
import pytest
import torch
from helpers import config
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision.transforms import v2

from efpn.data.augment import ColorJitter, HorizontalFlip, augmentations
from efpn.data.transforms import TrainTransform
from efpn.entry import in_one_line
from efpn.errors import UserError
from efpn.ranges import check_targets
from efpn.runs.files import read_config

BOX = (60, 40, 110, 80)


def painted() -> tuple[np.ndarray, np.ndarray]:
    """Black, 160 x 200, with a white rectangle, and its box."""
    image = np.zeros((160, 200, 3), np.uint8)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return image, np.array([BOX], float)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


MOVING = [
    HorizontalFlip(1.0),
    A.HorizontalFlip(p=1),
    A.Affine(translate_percent=(-0.1, 0.1), scale=(0.8, 1.2), rotate=0, p=1),
    A.Compose([A.VerticalFlip(p=1), A.GaussianBlur(blur_limit=(3, 3), p=1)]),
    v2.RandomHorizontalFlip(1.0),
    v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.8, 1.2)),
]
STILL = [ColorJitter(0.3, 0.3, 0.3, 0.1), A.GaussNoise(p=1), v2.ColorJitter(0.3, 0.3), v2.GaussianBlur(3, 1.5)]


@pytest.mark.parametrize("entry", MOVING)
@pytest.mark.parametrize("factor", [1, 2])
def test_boxes_and_regions_go_with_what_is_moved(entry, factor):
    transform = TrainTransform(80, 100, augment=[entry])
    image, boxes = painted()
    for seed in range(6):
        view = transform(image, boxes, factor=factor, seed=seed, ignore=boxes)
        white = view.image[..., 0] > 127
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        np.testing.assert_allclose(factor * view.boxes[0], seen, atol=1.01)
        np.testing.assert_allclose(view.ignore, view.boxes)


def test_what_is_moved_out_of_sight_is_dropped():
    away = A.Affine(translate_percent={"x": 0.6, "y": 0}, rotate=0, p=1)
    image, boxes = painted()
    views = [TrainTransform(80, 100, min_visibility=v, augment=[away])(image, boxes, factor=1, seed=0) for v in (0, 1)]
    assert views[0].boxes[0].tolist() == pytest.approx([90, 20, 100, 40], abs=1e-3)  # a corner of it is left
    assert not len(views[1].boxes)


@pytest.mark.parametrize("entry", [*MOVING, *STILL])
def test_the_seed_alone_decides(entry):
    transform, boxes = TrainTransform(60, 80, (0.7, 1.4), crop=48, augment=[entry]), np.array([[20.0, 30, 60, 70]])
    before = torch.get_rng_state()
    one, two = ([transform(noise(), boxes, factor=2, seed=seed) for seed in order] for order in ([0, 1, 2], [2, 1, 0]))
    for a, b in zip(one, two[::-1], strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert len({view.image.tobytes() for view in one}) == 3
    assert torch.equal(torch.get_rng_state(), before)  # sampling inside the model goes on undisturbed


@pytest.mark.parametrize("entry", STILL)
def test_what_changes_colours_leaves_boxes(entry):
    made = (TrainTransform(80, 100, augment=one) for one in (None, [entry]))
    plain, changed = (transform(noise(), np.array([BOX], float), factor=2, seed=3) for transform in made)
    np.testing.assert_array_equal(plain.boxes, changed.boxes)
    assert plain.image.shape == changed.image.shape and (plain.image != changed.image).any()


BEFORE = {  # seed: kept, boxes, mean, mirrored; before colour and flip became entries of a list
    0: ([0], [[16.62, 15.79, 49.87, 49.04]], 54.2, False),
    1: ([0], [[23.47, 8.53, 51.91, 36.98]], 102.3, True),
    2: ([1], [[18.36, 33.05, 34.1, 64.0]], 159.1, False),
    3: ([0, 1], [[45.23, 8.53, 62.29, 25.6], [15.36, 38.4, 28.16, 63.57]], 89.6, True),
    4: ([2], [[0.0, 5.93, 8.89, 17.78]], 77.6, False),
    5: ([], [], 150.0, True),
}


@pytest.mark.parametrize("seed", BEFORE)
def test_a_seed_gives_the_sample_that_it_gave_before_there_was_a_list(seed):
    augment = {"color": ColorJitter(brightness=0.4), "flip": HorizontalFlip(0.5)}
    transform = TrainTransform(96, 200, (0.6, 2.0), crop=64, object_crop_prob=0.8, augment=augment)
    ramp = np.repeat(np.tile(np.arange(50, 250, dtype=np.uint8), (150, 1))[..., None], 3, axis=2)
    boxes = np.array([[20.0, 20, 60, 60], [100, 90, 130, 149], [5, 100, 12.5, 110]])
    view = transform(ramp, boxes, factor=2, seed=seed)
    kept, expected, mean, mirrored = BEFORE[seed]
    assert view.kept.tolist() == kept and view.boxes.round(2).tolist() == expected
    assert view.image.mean() == pytest.approx(mean, abs=0.6)
    assert (view.image[0, 0, 0] > view.image[0, 20, 0]) == mirrored


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (A.RandomCrop(32, 32), r"augment.0: makes \(32, 32, 3\) uint8 of \(96, 128, 3\) uint8; an augmentation keeps"),
        (v2.Resize(50), "augment.0: makes .50, 66, 3. uint8"),
        (v2.ToDtype(torch.float32, scale=True), "augment.0: makes .96, 128, 3. float32"),
        (A.Mosaic(p=1), "augment.0: cannot be used here"),
        (torch.nn.Identity(), "augment.0: Identity is none; give a _target_ in albumentations"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(entry, message):
    with pytest.raises(UserError, match=message):
        TrainTransform(80, 100, augment=[entry])


def test_a_size_that_changes_seldom_is_told_too():
    transform = TrainTransform(80, 100, augment=[A.RandomCrop(32, 32, p=0.02)])
    with pytest.raises(UserError, match="made .32, 32, 3. of .160, 200, 3.; leave out what changes the size"):
        for seed in range(400):
            transform(*painted(), factor=2, seed=seed)


def test_an_entry_without_anything_is_left_out():
    assert len(augmentations({"color": ColorJitter(hue=0.1), "flip": None})) == 1
    assert augmentations(None) == augmentations([]) == []


BLUR = "{_target_: torchvision.transforms.v2.GaussianBlur, kernel_size: 3}"
NOISE = "{_target_: albumentations.GaussNoise}"


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ([f"+data.train_transform.augment.blur={BLUR}"], 2),  # one more by name
        (["data.train_transform.augment.color=null"], 0),
        (["data.train_transform.augment=null"], 0),
        (["~data.train_transform.augment", f"+data.train_transform.augment=[{BLUR},{NOISE},{BLUR}]"], 3),  # a list
    ],
)
def test_entries_are_added_and_left_out_on_the_command_line(words, count):
    cfg = config("train", "experiment=tt100k_efpn", *words)
    check_targets(cfg.data.train_transform, "data.train_transform")
    assert len(instantiate(cfg.data.train_transform, _convert_="all").augment) == count


def test_a_mistyped_option_in_a_list_is_named():
    node = OmegaConf.create({"augment": [{"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel": 3}]})
    with pytest.raises(UserError, match=r"^data.augment.0.kernel: torchvision.*takes no such option; it takes kernel_"):
        check_targets(node, "data")


def test_what_a_library_refuses_is_one_line():
    """Found when the data are built, which is before training."""
    blur = "{_target_: torchvision.transforms.v2.GaussianBlur, kernel_size: 2}"
    cfg = config("train", "experiment=tt100k_efpn", f"+data.train_transform.augment.blur={blur}")
    with pytest.raises(InstantiationException) as caught:
        instantiate(cfg.data.train_transform, _convert_="all")
    said = in_one_line(caught.value)
    assert said.startswith("data.train_transform.augment.blur: torchvision.transforms.v2")
    assert said.endswith("refuses it: Kernel size value should be an odd and positive number.") and "\n" not in said


def test_the_config_of_an_older_run_gives_the_same_transform(tmp_path):
    old = {"_target_": "efpn.data.transforms.TrainTransform", "short_side": 80, "max_size": 100, "hflip_prob": 0.5}
    old["color_jitter"] = {"brightness": 0.3, "hue": 0.02}
    phases = {"baseline": {"data": {}}, "distill": {"data": {"train_transform": {"hflip_prob": 0.0, "crop": 8}}}}
    run = {"name": "x", "seed": 0, "phases": phases, "data": {"train_transform": old}, "model": {}, "trainer": {}}
    OmegaConf.save(OmegaConf.create(run), tmp_path / "config.yaml")
    read = read_config(tmp_path / "config.yaml")
    transform = instantiate(read.data.train_transform, _convert_="all")
    today = TrainTransform(80, 100, augment=[ColorJitter(brightness=0.3, hue=0.02), HorizontalFlip(0.5)])
    for seed in range(4):
        one, other = (made(*painted(), factor=2, seed=seed) for made in (transform, today))
        np.testing.assert_array_equal(one.image, other.image)
    assert OmegaConf.to_container(read.phases.distill.data) == {
        "train_transform": {"crop": 8, "augment": {"flip": None}}
    }
