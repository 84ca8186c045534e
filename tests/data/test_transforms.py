import numpy as np
import pytest

from efpn.data.augment import ColorJitter, HorizontalFlip
from efpn.data.transforms import EvalTransform, TrainTransform, clip_boxes, size_factor

SIGNS = {"short_side": 96, "max_size": 96, "scale_jitter": (0.6, 2.0), "crop": 64, "object_crop_prob": 0.8}


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Green with a red rectangle at `box`."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = 200
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (255, 0, 0)
    return image


def red_box(image: np.ndarray) -> np.ndarray:
    """Box of what is mostly red, xyxy."""
    red = image[..., 0].astype(int) > image[..., 1].astype(int) + 27  # equal shares of both
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize(
    ("height", "width", "short_side", "max_size", "size"),
    [(480, 640, 800, 1333, (800, 1067)), (400, 1000, 800, 1333, (533, 1333)), (2048, 2048, 1400, 1400, (1400, 1400))],
)
def test_size_rule_is_torchvisions(height, width, short_side, max_size, size):
    factor = size_factor(height, width, short_side, max_size)
    assert (round(height * factor), round(width * factor)) == size


def test_eval_gives_the_whole_image_and_its_scale():
    image, boxes = painted(300, 400, (40, 60, 120, 100)), np.array([[40.0, 60, 120, 100]])
    view = EvalTransform(150, 1000)(image, boxes, factor=2, seed=0)
    assert view.image.shape == (300, 400, 3)
    assert view.scale == (0.5, 0.5)
    np.testing.assert_allclose(view.boxes, [[20, 30, 60, 50]])
    np.testing.assert_array_equal(view.image, image)  # 2x of half the size is the native image itself


def test_eval_scale_is_exact_per_axis():
    view = EvalTransform(100, 100)(
        painted(333, 500, (0, 0, 10, 10)), np.array([[50.0, 33.3, 500, 333]]), factor=2, seed=0
    )
    assert view.image.shape == (134, 200, 3)  # 66.6 rounds to 67
    np.testing.assert_allclose(view.scale, (0.2, 67 / 333))
    np.testing.assert_allclose(view.boxes / np.tile(view.scale, 2), [[50, 33.3, 500, 333]])


def test_shrinking_averages_areas():
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    view = EvalTransform(32, 32)(image, np.zeros((0, 4)), factor=2, seed=0)
    mean = image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(view.image - mean).max() <= 0.5


def test_one_factor_of_the_double_size_is_the_2x_image():
    image = np.random.default_rng(0).integers(0, 256, (90, 180, 3), np.uint8)
    double = EvalTransform(100, 200, direct=True)(image, np.zeros((0, 4)), factor=1, seed=0)
    pair = EvalTransform(50, 100)(image, np.zeros((0, 4)), factor=2, seed=0)
    np.testing.assert_array_equal(double.image, pair.image)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        SIGNS,
        SIGNS | {"augment": [HorizontalFlip(1.0)]},
        SIGNS | {"crop": None, "augment": [HorizontalFlip(0.5)]},
        SIGNS | {"crop": 240},
    ],
)
def test_boxes_follow_the_object(options, factor):
    transform = TrainTransform(**options)
    box = (110, 70, 160, 130)
    image, native = painted(200, 280, box), np.array([box], float)
    seen = 0
    for seed in range(60):
        view = transform(image, native, factor=factor, seed=seed)
        if len(view.boxes):
            seen += 1
            np.testing.assert_allclose(red_box(view.image), factor * view.boxes[0], atol=1.01)
    assert seen >= 40


def test_crops_have_one_size_and_pad_with_black():
    transform = TrainTransform(48, 48, crop=64)
    view = transform(np.full((100, 200, 3), 255, np.uint8), np.zeros((0, 4)), factor=2, seed=1)
    assert view.image.shape == (128, 128, 3)
    assert (view.image[:48, :96] == 255).all()
    assert (view.image[48:] == 0).all() and (view.image[:, 96:] == 0).all()


def test_object_crops_hold_the_whole_object():
    transform = TrainTransform(**SIGNS | {"object_crop_prob": 1.0, "scale_jitter": None})
    image, boxes = painted(512, 512, (3, 500, 23, 510)), np.array([[3.0, 500, 23, 510]])
    for seed in range(50):
        view = transform(image, boxes, factor=1, seed=seed)
        np.testing.assert_allclose(view.boxes[0, 2:] - view.boxes[0, :2], np.array([20, 10]) * view.scale)


def test_object_larger_than_the_crop_fills_it():
    transform = TrainTransform(64, 64, crop=16, object_crop_prob=1.0, min_visibility=0.0)
    boxes = np.array([[10.0, 10, 60, 60]])
    for seed in range(30):
        view = transform(painted(64, 64, (10, 10, 60, 60)), boxes, factor=1, seed=seed)
        np.testing.assert_allclose(view.boxes, [[0, 0, 16, 16]])


def test_uniform_crops_reach_everywhere():
    transform = TrainTransform(64, 64, crop=16)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    lefts = {int(transform(ramp, np.zeros((0, 4)), factor=1, seed=seed).image[0, 0, 0]) for seed in range(400)}
    assert min(lefts) == 0 and max(lefts) == 48


def test_scale_jitter_is_log_uniform_in_its_range():
    transform = TrainTransform(64, 64, scale_jitter=(0.5, 2.0))
    image = np.zeros((64, 64, 3), np.uint8)
    sizes = [transform(image, np.zeros((0, 4)), factor=1, seed=seed).image.shape[0] for seed in range(4000)]
    assert 32 <= min(sizes) <= 34 and 124 <= max(sizes) <= 128
    assert 0.47 < np.mean(np.array(sizes) < 64) < 0.51  # the middle of the logarithms is 1


def test_boxes_with_too_little_left_are_dropped():
    boxes = np.array([[-8.0, 0, 2, 10], [-2, 0, 8, 10], [20, 20, 30, 30], [-5, -5, 0, 3]])
    clipped, kept = clip_boxes(boxes, 25, 25, 0.25)
    assert kept.tolist() == [1, 2]
    assert clipped.tolist() == [[0, 0, 8, 10], [20, 20, 25, 25]]


def test_everything_is_drawn_from_the_seed():
    transform = TrainTransform(**SIGNS, augment=[ColorJitter(brightness=0.4, hue=0.1), HorizontalFlip(0.5)])
    twin = TrainTransform(**SIGNS, augment=[ColorJitter(brightness=0.4, hue=0.1), HorizontalFlip(0.5)])
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    boxes = np.array([[20.0, 20, 60, 60]])
    first = [transform(image, boxes, factor=2, seed=seed).image for seed in range(6)]
    again = [twin(image, boxes, factor=2, seed=seed).image for seed in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({image.tobytes() for image in first}) == 6


def test_colour_jitter_changes_colours_not_geometry():
    plain, coloured = TrainTransform(**SIGNS), TrainTransform(**SIGNS, augment=[ColorJitter(brightness=[0.5, 0.5])])
    image, boxes = painted(200, 200, (50, 50, 90, 90)), np.array([[50.0, 50, 90, 90]])
    one, other = (transform(image, boxes, factor=2, seed=3) for transform in (plain, coloured))
    assert one.image.shape == other.image.shape
    assert abs(other.image.mean() / one.image.mean() - 0.5) < 0.03


def test_a_repeat_is_a_crop_around_the_object_it_comes_for():
    image = painted(200, 200, (150, 20, 170, 40))
    boxes = np.array([[10.0, 150, 40, 190], [150, 20, 170, 40]])
    transform = TrainTransform(100, 100, (0.8, 1.25), repeat_crop=50)
    corners = set()
    for seed in range(40):
        whole = transform(image, boxes, factor=1, seed=seed)
        assert whole.image.shape[0] >= 80 and len(whole.kept) == 2  # the first time: all of it
        view = transform(image, boxes, factor=2, seed=seed, focus=np.array([1]))
        assert view.image.shape == (100, 100, 3) and 1 in view.kept
        assert view.scale == pytest.approx(whole.scale, rel=0.05)  # the size of objects is that of the whole image
        (box,) = view.boxes[view.kept == 1]
        np.testing.assert_allclose(box[2:] - box[:2], 20 * np.array(view.scale), rtol=1e-6)  # not cut
        corners.add(tuple(box[:2].round()))
    assert len(corners) > 20


def test_a_repeat_of_a_cropping_transform_keeps_its_side():
    image, boxes = painted(200, 200, (0, 0, 9, 9)), np.array([[10.0, 150, 40, 190], [150, 20, 170, 40]])
    transform = TrainTransform(100, 100, crop=40, object_crop_prob=0.0, repeat_crop=70)
    for seed in range(20):
        view = transform(image, boxes, factor=1, seed=seed, focus=np.array([0]))
        assert view.image.shape == (40, 40, 3) and view.kept.tolist() == [0]


def test_the_window_of_a_repeat_in_native_pixels():
    assert TrainTransform(1400, 1400, (0.8, 1.25), repeat_crop=700).repeat_window((2048, 2048)) == pytest.approx(1024)
    assert TrainTransform(50, 100, crop=20).repeat_window((100, 100)) == 40
    assert np.isinf(TrainTransform(50, 100).repeat_window((100, 100)))
    assert np.isinf(TrainTransform(50, 100, repeat_crop=20).repeat_window(None))
