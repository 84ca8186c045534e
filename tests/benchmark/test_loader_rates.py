"""The loader's rates, and the images that they are measured on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch.nn.functional as F
from helpers import SMALL_BENCHMARK, benchmark_setting, config, run_here

from efpn.benchmark.loader import WrittenImages, training_data
from efpn.data.images import read_image, read_smaller


@pytest.mark.slow
def test_rates_of_loader_step_and_decoding(tmp_path):
    few = ["workers=[0]", "files=2", "file_size=160", "load=3", f"out={tmp_path}"]
    done = run_here("benchmark.py", "what=loader", *SMALL_BENCHMARK, *few)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "small.json").read_text())
    assert {phase: list(rates) for phase, rates in record["loader"].items()} == {"baseline": ["0"], "distill": ["0"]}
    assert all(rate > 0 for rate in (*record["decoding"].values(), *record["step"].values()))
    for ratio, phase in zip(record["ratios"], ("baseline", "distill"), strict=True):
        value = record["step"][phase] / record["loader"][phase]["0"]
        assert ratio["value"] == pytest.approx(value) and ratio["met"] == (value <= 1)
    text = (tmp_path / "small.md").read_text()
    assert "| distill loader, workers: 0 |" in text and "| baseline step |" in text


def test_the_loader_is_the_real_one(tmp_path):
    setting = benchmark_setting("what=loader", "batch=2", "load=4")
    source = WrittenImages(tmp_path, files=3, side=160, setting=setting)
    batches = list(training_data(source, setting, workers=0, pairs=True).train_dataloader())
    assert len(batches) == 3
    for ones, twos, targets in batches:
        for one, two, target in zip(ones, twos, targets, strict=True):
            assert F.avg_pool2d(two, 2).sub(one).abs().max() < 1e-5
            assert len(target["boxes"]) == 3


SHIPPED = (("train", ["experiment=tt100k_fpn"]), ("benchmark", ["what=loader"]))


def test_the_transform_is_that_of_the_shipped_config():
    trained, measured = (config(name, *more).data for name, more in SHIPPED)
    assert trained.train_transform == measured.train_transform


def test_written_images_have_detail_and_halve_to_their_mean(tmp_path):
    source = WrittenImages(tmp_path, files=2, side=128, setting=benchmark_setting())
    whole, other = (read_image(path).astype(float) for path in source.paths)
    assert whole.shape == (128, 128, 3) and whole.std() > 20 and np.abs(whole - other).mean() > 10
    half = read_smaller(source.paths[0], lambda height, width: 2)[0].astype(float)
    mean = whole.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert half.shape == mean.shape and np.abs(half - mean).mean() < 5
