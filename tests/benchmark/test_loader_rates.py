"""The loader's rates, and the pictures that they are measured on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch.nn.functional as F
from helpers import SMALL_BENCHMARK, SMALL_NAME, benchmark_options, config

from efpn.benchmark.cli import main
from efpn.benchmark.loader import COLOUR, JITTER, VISIBLE, WrittenPictures, training_data
from efpn.data.pictures import read_picture, read_smaller


def test_rates_of_loader_step_and_decoding(tmp_path):
    few = ["--workers", "0", "--files", "2", "--file-size", "160", "--load", "3", "--out", str(tmp_path)]
    assert main(["loader", *SMALL_BENCHMARK, *few]) == 0
    record = json.loads((tmp_path / f"loader-cpu-64-32-{SMALL_NAME}.json").read_text())
    assert {phase: list(rates) for phase, rates in record["loader"].items()} == {"baseline": ["0"], "distill": ["0"]}
    assert all(rate > 0 for rate in (*record["decoding"].values(), *record["step"].values()))
    for ratio, phase in zip(record["ratios"], ("baseline", "distill"), strict=True):
        value = record["step"][phase] / record["loader"][phase]["0"]
        assert ratio["value"] == pytest.approx(value) and ratio["met"] == (value <= 1)
    text = (tmp_path / f"loader-cpu-64-32-{SMALL_NAME}.md").read_text()
    assert "| distill loader, workers: 0 |" in text and "| baseline step |" in text


def test_the_loader_is_the_real_one(tmp_path):
    options = benchmark_options("--batch", "2")
    source = WrittenPictures(tmp_path, files=3, side=160, options=options)
    batches = list(training_data(source, options, workers=0, pairs=True, pictures=4).train_dataloader())
    assert len(batches) == 3
    for ones, twos, targets in batches:
        for one, two, target in zip(ones, twos, targets, strict=True):
            assert F.avg_pool2d(two, 2).sub(one).abs().max() < 1e-5
            assert len(target["boxes"]) == 3


def test_the_transform_is_that_of_the_shipped_config():
    node = config("train", "experiment=tt100k_fpn").data.train_transform
    assert (tuple(node.scale_jitter), dict(node.color_jitter), node.min_visibility) == (JITTER, COLOUR, VISIBLE)


def test_written_pictures_have_detail_and_halve_to_their_mean(tmp_path):
    source = WrittenPictures(tmp_path, files=2, side=128, options=benchmark_options())
    whole, other = (read_picture(path).astype(float) for path in source.paths)
    assert whole.shape == (128, 128, 3) and whole.std() > 20 and np.abs(whole - other).mean() > 10
    half = read_smaller(source.paths[0], lambda height, width: 2)[0].astype(float)
    mean = whole.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert half.shape == mean.shape and np.abs(half - mean).mean() < 5
