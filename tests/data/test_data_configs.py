import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from efpn.data.tt100k import CLASSES_45


@pytest.fixture
def data(conf):
    """Composes one file of conf/data with overrides."""

    def make(name: str, *overrides: str):
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose(f"data/{name}", overrides=["+paths.data=data", *overrides]).data

    return make


@pytest.mark.parametrize("name", ["synthetic", "tt100k", "mosaic", "coco", "carla"])
def test_all_have_the_same_keys(data, name):
    reference = data("tt100k")
    assert set(data(name)) == set(reference)
    assert set(data(name).train_transform) == set(reference.train_transform)
    assert data(name).eval_transform.short_side == data(name).train_transform.short_side


def test_papers_settings(data):
    signs, things = data("tt100k"), data("coco")
    assert (signs.train_transform.short_side, signs.train_transform.max_size) == (1400, 1400)
    assert (signs.balance, list(signs.train_transform.augment)) == (1000, ["color"])
    assert (things.train_transform.short_side, things.train_transform.max_size) == (800, 1333)
    assert things.train_transform.augment.flip.p == 0.5


def test_synthetic_gives_batches(data, tmp_path):
    small = ["data.source.counts={train: 4, val: 2, test: 2}", "data.source.options={side: 128}"]
    module = instantiate(data("synthetic", f"data.root={tmp_path}", *small, "data.num_workers=0", "+data.pairs=true"))
    images, doubles, _ = next(iter(module.train_dataloader()))
    assert len(images) == 8 and images[0].shape == (3, 160, 160) and doubles[0].shape == (3, 320, 320)
    assert module.num_classes == 15
    assert next(iter(module.val_dataloader()))[0][0].shape == (3, 192, 192)


def test_a_users_coco_set_takes_four_lines(data, coco):
    root = coco()
    module = instantiate(
        data(
            "coco",
            f"data.root={root}",
            "data.source.splits.train={images: train, annotations: train.json}",
            "data.splits.val={from: train, holdout: 0.5}",
            "data.splits.test=train",
            "data.num_workers=0",
        )
    )
    assert [len(module.index(role)) for role in ("train", "val", "test")] == [1, 1, 1]
    assert module.num_classes == 3
    assert len(next(iter(module.train_dataloader()))[0]) == 8


def test_mosaic(data, shared_data):
    module = instantiate(data("mosaic", f"data.root={shared_data / 'tt100k_mosaic'}", "data.num_workers=0"))
    assert [len(module.index(role)) for role in ("train", "val", "test")] == [1200, 150, 450]
    assert module.num_classes == 47
    evaluated = {module.categories.names[label - 1] for label in module.categories.evaluated_labels}
    assert evaluated == set(CLASSES_45)
    images, targets = next(iter(module.train_dataloader()))
    assert images[0].shape == (3, 256, 256)
    assert sum(len(target["boxes"]) for target in targets) > 0


def test_carla_validates_on_a_town_of_its_own(data, shared_data):
    module = instantiate(data("carla", f"data.root={shared_data / 'carla_street'}"))
    towns = [{record.path.name[:6] for record in module.index(role).records} for role in ("train", "val", "test")]
    assert towns == [{"Town01", "Town03", "Town04"}, {"Town02"}, {"Town05"}]


def test_readers_and_checks_need_no_torch(tmp_path):
    modules = ["records", "tt100k", "coco", "check", "balance", "splits", "images", "synthetic"]
    imports = "; ".join(f"import efpn.data.{name}" for name in modules)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules or 'pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_a_missing_root_is_answered_before_torch_is_loaded(tmp_path):
    code = (
        "import sys\n"
        "from efpn.data.tt100k import TT100K\n"
        "from efpn.errors import UserError\n"
        "try: TT100K('nowhere')\n"
        "except UserError as error: print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "data folder nowhere does not exist; give the right one with data.root=FOLDER\n"
