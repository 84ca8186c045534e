import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from efpn.data.balance import count_matrix
from efpn.data.datamodule import DetectionDataModule, thin_out
from efpn.data.transforms import EvalTransform, TrainTransform
from efpn.data.tt100k import TT100K
from efpn.errors import Problem, UserError


@pytest.fixture
def module(tt100k, tt100k_sign):
    def make(**options) -> DetectionDataModule:
        train = {number: [tt100k_sign("pn" if number % 5 else "pl50")] if number % 4 else [] for number in range(1, 24)}
        root = tt100k({"train": train, "test": {number: [] for number in range(30, 37)}})
        splits = {"train": "train", "val": {"from": "train", "holdout": 3 / 23}, "test": "test"}
        transforms = TrainTransform(24, 32, (0.7, 1.5), crop=16, object_crop_prob=0.5), EvalTransform(24, 32)
        return DetectionDataModule(TT100K(root), splits, *transforms, **{"num_workers": 0, "batch_size": 4} | options)

    return make


def image_ids(loader) -> list[int]:
    return [int(target["image_id"]) for batch in loader for target in batch[-1]]


def as_rank(module: DetectionDataModule, rank: int, world_size: int) -> DetectionDataModule:
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, current_epoch=0)
    return module


def test_classes_and_counts(module):
    data = module()
    assert data.num_classes == 4
    assert data.categories.names == ("pn", "pl50", "w1")
    assert [len(data.index(role)) for role in ("train", "val", "test")] == [20, 3, 7]
    assert data.index("train") is data.index("train")


def test_batches_are_lists_of_images_and_targets(module):
    images, targets = next(iter(module().train_dataloader()))
    assert [image.shape for image in images] == [(3, 16, 16)] * 4
    assert len(targets) == 4


def test_pair_batches(module):
    small, large, targets = next(iter(module(pairs=True).train_dataloader()))
    assert [image.shape for image in small] == [(3, 16, 16)] * 4
    assert [image.shape for image in large] == [(3, 32, 32)] * 4
    assert len(targets) == 4
    assert len(next(iter(module(pairs=True).test_dataloader()))) == 2
    assert len(next(iter(module(eval_pairs=True).test_dataloader()))) == 3


def test_epochs_have_whole_batches_of_the_asked_length(module):
    assert len(module().train_dataloader()) == 5
    assert len(module(samples_per_epoch=9).train_dataloader()) == 3
    assert len(as_rank(module(samples_per_epoch=9), 1, 2).train_dataloader()) == 2


def test_evaluation_keeps_every_image_in_order(module):
    assert image_ids(module(eval_batch_size=3).test_dataloader()) == list(range(30, 37))


def test_limits_are_spread_over_the_split(module):
    data = module(limit_val=2, limit_test=3)
    assert image_ids(data.test_dataloader()) == [30, 33, 36]
    assert len(data.index("val")) == 2
    assert thin_out(data.index("test"), 100) is data.index("test")


def test_empty_images_can_be_left_out_of_training_only(module):
    data = module(keep_empty=False, samples_per_epoch=40)
    assert all(number % 4 for number in image_ids(data.train_dataloader()))
    assert any(number % 4 == 0 for number in image_ids(module(samples_per_epoch=40).train_dataloader()))
    assert len(image_ids(data.test_dataloader())) == 7


def test_what_is_left_out_for_want_of_a_box_is_said(module, caplog):
    with caplog.at_level(logging.INFO):
        order, _ = module(keep_empty=False).train_order()
    assert f"data.keep_empty=false: {20 - len(order)} of 20 training images have no box" in caplog.text
    assert len(order) < 20


def test_balanced_images_come_again_as_crops_around_their_class(module):
    data = module(balance=40, samples_per_epoch=60)
    data.train_transform = TrainTransform(24, 32, repeat_crop=14)
    loader = data.train_dataloader()
    keys = list(loader.sampler)
    seen = [
        (image.shape[1:], target) for images, targets in loader for image, target in zip(images, targets, strict=True)
    ]
    assert len(keys) == len(seen) and 10 < sum(label > 0 for *_, label in keys) < 60
    for (number, _, label), (size, target) in zip(keys, seen, strict=True):
        assert size == ((14, 14) if label else (24, 32))
        assert data.index("train").records[number].image_id == target["image_id"]
        assert not label or label in target["labels"]


def test_balance_repeats_rare_classes(module):
    data = module(balance=9)
    order, labels = data.train_order()
    counts, rare = count_matrix(data.index("train")), data.categories.names.index("pl50")
    assert counts[:, rare].sum() < 9 <= counts[order, rare].sum()
    assert len(order) == len(labels) > 20
    assert (np.bincount(labels) > 0).tolist() == [True, False, True]  # none, pn has enough, pl50


def test_two_ranks_share_the_epoch(module):
    whole = image_ids(module(batch_size=4, samples_per_epoch=16).train_dataloader())
    shares = [
        image_ids(as_rank(module(batch_size=2, samples_per_epoch=16), rank, 2).train_dataloader()) for rank in range(2)
    ]
    assert [number for pair in zip(*shares, strict=True) for number in pair] == whole


@pytest.mark.parametrize(("images", "ranks"), [(7, 1), (7, 2), (7, 3), (2, 5)])
def test_ranks_evaluate_every_image_in_equal_shares(module, images, ranks):
    loaders = [as_rank(module(limit_test=images), rank, ranks).test_dataloader() for rank in range(ranks)]
    shares = [list(loader.sampler) for loader in loaders]
    assert {number for share in shares for number in share} == set(range(images))
    assert {len(share) for share in shares} == {len(loader.sampler) for loader in loaders} == {-(-images // ranks)}
    assert [share[0] for share in shares] == [rank % images for rank in range(ranks)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_same_pixels(module, workers):
    def epoch(data: DetectionDataModule, number: int) -> list[torch.Tensor]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [image for images, _ in loader for image in images]

    unbroken = module(num_workers=0, seed=5)
    epoch(unbroken, 0)
    expected, resumed = epoch(unbroken, 1), epoch(module(num_workers=workers, seed=5), 1)
    for one, other in zip(expected, resumed, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    different = epoch(module(seed=6), 1)
    assert any(not torch.equal(one, other) for one, other in zip(expected, different, strict=True))


def test_lightning_sets_the_epoch(module, tmp_path):
    class Watcher(pl.LightningModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.seen: list[list[int]] = []

        def on_train_epoch_start(self):
            self.seen.append([])

        def training_step(self, batch, batch_idx):
            self.seen[-1].extend(int(target["image_id"]) for target in batch[-1])

        def configure_optimizers(self):
            return None

    watcher, data = Watcher(), module(samples_per_epoch=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(watcher, datamodule=data)
    stream = module(samples_per_epoch=16)
    assert watcher.seen[0] + watcher.seen[1] == image_ids(stream.train_dataloader())


def test_the_check_runs_before_training(module, caplog):
    data = module()
    broken = data.source.root / "test/33.jpg"
    broken.unlink()
    with pytest.raises(UserError, match=r"test/33.jpg: image 33: the file does not exist; restore it or remove it"):
        data.test_dataloader()
    lenient = DetectionDataModule(
        data.source, data.splits, data.train_transform, data.eval_transform, on_unreadable="skip", num_workers=0
    )
    with caplog.at_level(logging.INFO):
        assert image_ids(lenient.test_dataloader()) == [30, 31, 32, 34, 35, 36]
    assert "signs/test: 6 images (6 without a box), 0 boxes; 1 broken images or boxes left out" in caplog.text


def test_all_that_a_fit_reads_is_checked_in_one_go(module):
    data = module()
    for role in ("train", "val"):
        data.index(role).records[0].path.unlink()
    data = DetectionDataModule(data.source, data.splits, data.train_transform, data.eval_transform)
    with pytest.raises(UserError, match=r"(?s)signs/train: 1 problem.*signs/train \(its part for val\): 1 problem"):
        data.check("train", "val")
    data.check("test")


def test_what_a_reader_could_not_make_sense_of_is_said_once_for_both_parts_of_a_split(module, monkeypatch):
    data, load = module(), TT100K.load
    gone = data.index("train").records[0].path
    gone.unlink()
    data = DetectionDataModule(data.source, data.splits, data.train_transform, data.eval_transform)
    odd = Problem(Path("labels.txt"), "line 4", "is 'x'", "write a number")
    monkeypatch.setattr(TT100K, "load", lambda self, split: replace(load(self, split), problems=(odd,)))
    with pytest.raises(UserError) as caught:
        data.check("train", "val")
    first, *lines, _ = str(caught.value).splitlines()
    assert first == "signs/train: 2 problems" and lines[0] == f"  {odd}" and len(lines) == 2 and str(gone) in lines[1]


def test_the_check_can_be_told_not_to_open_images(module):
    data = module(check_images="none")
    (data.source.root / "test/33.jpg").unlink()
    assert len(data.index("test")) == 7


def test_a_training_split_without_any_box_is_refused(module):
    data = module()
    empty = DetectionDataModule(data.source, {"train": "test"}, data.train_transform, data.eval_transform)
    with pytest.raises(UserError, match=r"signs/test: no box to learn from in 7 images; check data.splits.train and"):
        empty.check("train")


def test_what_both_splits_have_wrong_is_said_once(module):
    data = module()
    for file, content in (("train/ids.txt", "1\n1\n2\n3\n"), ("annotations.json", "{}")):
        (data.source.root / file).write_text(content)
        broken = DetectionDataModule(TT100K(data.source.root), data.splits, data.train_transform, data.eval_transform)
        with pytest.raises(UserError) as caught:
            broken.check("train", "val")
        assert str(caught.value).count(file) == 1
