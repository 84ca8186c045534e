import numpy as np
import pytest

from efpn.data.check import check_index
from efpn.data.images import read_image
from efpn.data.synthetic import Synthetic, source
from efpn.data.synthetic.scene import SceneOptions, draw_scene
from efpn.data.synthetic.signs import SIDE, distractors, sign_kinds
from efpn.errors import UserError

SMALL = {"counts": {"train": 3, "val": 1, "test": 2}, "options": {"side": 128}}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Synthetic:
    signs = Synthetic(tmp_path_factory.mktemp("synthetic"), **SMALL)
    signs.generate()
    return signs


def test_is_a_sound_data_set_in_the_tt100k_layout(drawn):
    indices = [check_index(drawn.load(split), open_images="all") for split in ("train", "val", "test")]
    assert [len(index) for index, _ in indices] == [3, 1, 2]
    assert all(not report.clipped and not report.zero_area for _, report in indices)
    assert indices[0][0].records[0].size == (128, 128)
    assert (drawn.folder / "train/ids.txt").read_text() == "1\n2\n3\n"
    assert drawn.load("train").categories == drawn.categories
    assert len({record.image_id for index, _ in indices for record in index.records}) == 6


def test_equal_arguments_draw_equal_images(drawn, tmp_path):
    again = Synthetic(tmp_path, **SMALL)
    for one, other in zip(drawn.load("train").records, again.load("train").records, strict=True):
        np.testing.assert_array_equal(read_image(one.path), read_image(other.path))
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_each_argument_has_its_own_folder(drawn, tmp_path):
    variants = [SMALL | change for change in ({}, {"seed": 1}, {"counts": {"train": 4}}, {"options": {"side": 96}})]
    assert len({Synthetic(drawn.root, **variant).folder for variant in variants}) == 4
    first, second = (Synthetic(tmp_path, {"train": 1}, seed=seed, options={"side": 64}) for seed in (0, 1))
    images = [read_image(signs.load("train").records[0].path) for signs in (first, second)]
    assert (images[0] != images[1]).any()


def test_a_set_that_is_there_is_not_drawn_again(drawn, monkeypatch):
    monkeypatch.setattr(source, "draw_scene", None)
    assert len(Synthetic(drawn.root, **SMALL).load("test")) == 2


def test_a_set_that_another_process_has_drawn_first_is_taken(tmp_path, monkeypatch):
    first, second = (Synthetic(tmp_path, {"train": 1}, options={"side": 64}) for _ in range(2))
    write = second._write

    def slow(folder):
        write(folder)
        first.generate()

    monkeypatch.setattr(second, "_write", slow)
    assert second.generate() == first.folder and len(second.load("train")) == 1


def test_a_full_disk_is_no_other_process(tmp_path, monkeypatch):
    signs = Synthetic(tmp_path, {"train": 1}, options={"side": 64})

    def full(folder):
        signs.folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signs, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        signs.generate()


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    signs, draw, calls = Synthetic(tmp_path, **SMALL), source.draw_scene, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(source, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        signs.load("train")
    assert list(tmp_path.iterdir()) == []
    assert len(signs.load("train")) == 3


def test_two_processes_may_draw_at_once(tmp_path, monkeypatch):
    signs, write = Synthetic(tmp_path, **SMALL), Synthetic._write
    rival = Synthetic(tmp_path, **SMALL)

    def overtaken(self, folder):
        write(self, folder)
        if self is signs:
            rival.generate()

    monkeypatch.setattr(Synthetic, "_write", overtaken)
    assert signs.generate() == rival.folder
    assert [path.name for path in tmp_path.iterdir()] == [signs.folder.name]


def test_fourteen_kinds_differ_in_their_details():
    kinds = sign_kinds()
    assert len(kinds) == 14
    faces = [sign.face.astype(float) for sign in kinds.values()]
    for number, face in enumerate(faces):
        assert face.shape == (SIDE, SIDE, 4)
        assert all(np.abs(face - other).mean() > 2 for other in faces[:number])
    fifty, sixty = kinds["limit50"].face, kinds["limit60"].face
    np.testing.assert_array_equal(fifty[..., 3], sixty[..., 3])  # the same outline


@pytest.mark.parametrize("name", ["limit30", "warn_bend", "go_left", "no_stopping"])
def test_outlines_frame_the_faces(name):
    sign = sign_kinds()[name]
    rows, columns = np.nonzero(sign.face[..., 3] > 127)
    low, high = sign.outline.min(axis=0) * SIDE, sign.outline.max(axis=0) * SIDE
    np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1.5)
    np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], high, atol=1.5)


def test_boxes_frame_the_painted_signs(monkeypatch):
    """Drawn on black, without posts, leaves and camera, a sign's pixels end where its box does."""
    from efpn.data.synthetic import scene

    monkeypatch.setattr(scene, "draw_street", lambda side, random: np.zeros((side, side, 3), np.uint8))
    monkeypatch.setattr(scene, "_photograph", lambda image, random: image)
    monkeypatch.setattr(scene, "_post", lambda image, box, random: None)
    monkeypatch.setattr(scene, "OCCLUDED", 0)
    options = SceneOptions(side=200, signs=(1, 1), distractors=0, empty=0)
    for seed in range(40):
        image, (placed,) = draw_scene(options, np.random.default_rng(seed))
        rows, columns = np.nonzero(image.max(axis=2) > 40)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, placed.box, atol=2.0)


def test_options_are_kept():
    options = SceneOptions(side=256, signs=(5, 9), sign_size=(10, 40), empty=0)
    sizes = []
    for seed in range(12):
        image, placed = draw_scene(options, np.random.default_rng(seed))
        assert image.shape == (256, 256, 3)
        assert 4 <= len(placed) <= 9
        boxes = np.array([sign.box for sign in placed])
        assert (boxes >= 0).all() and (boxes <= 256).all()
        sizes.extend((boxes[:, 2:] - boxes[:, :2]).max(axis=1))
    assert min(sizes) > 8 and max(sizes) < 46  # turning and perspective change a size by a little
    assert np.mean(np.array(sizes) < 32) > 0.6


def test_distractors_are_not_signs():
    assert len(distractors()) == 9
    kinds = [sign.face.tobytes() for sign in sign_kinds().values()]
    assert all(blank.face.tobytes() not in kinds for blank in distractors())


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match=r"data.source.options has sides; the known options are side, signs, sign_size"):
        Synthetic(tmp_path, options={"sides": 3})
    with pytest.raises(UserError, match=r"data.splits names the split 'other', but data.source.counts has only train"):
        Synthetic(tmp_path).load("other")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file .*; give another folder with data.root=FOLDER"):
        Synthetic(blocked, **SMALL).load("train")
