"""Exclusive timing, by a clock that the test turns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efpn.benchmark.timing import StageClock, Stages, stopwatch
from efpn.models import Backbone


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Part(nn.Module):
    """Takes its time, and may call another part in the middle of it."""

    def __init__(self, hand, takes, calls=None):
        super().__init__()
        self.hand, self.takes = hand, takes
        self.calls = calls or (lambda: None)

    def forward(self):
        self.hand.now += self.takes
        self.calls()
        self.hand.now += self.takes


class Body(Backbone):
    """A backbone of one layer, its second stage."""

    def __init__(self, layer1):
        super().__init__()
        self.layer1 = layer1

    @property
    def entry(self):
        return nn.Sequential()

    @property
    def stages(self):
        return [nn.Sequential(self.layer1), nn.Sequential()]


def lazy_detector(hand):
    """Its heads run the extension and the backbone's second stage by themselves, as a lazy extension does."""
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.body = Body(Part(hand, 100))
    model.backbone.extension = Part(hand, 10)
    model.rpn = Part(hand, 1000)

    def pool():
        model.backbone.body.layer1()
        model.backbone.extension()

    model.roi_heads = Part(hand, 1, pool)
    return model


def test_an_inner_stage_stops_the_outer_one():
    hand = Hand()
    clock = StageClock(hand)
    with clock.stage("rest"):
        hand.now += 1
        with clock.stage("heads"):
            hand.now += 10
            with clock.stage("extension"):
                hand.now += 100
            hand.now += 20
            with clock.stage("extension"):
                hand.now += 200
        hand.now += 2
    hand.now += 1000  # after the last stage: nobody's
    with clock.stage("post"):
        hand.now += 5
    assert clock.read() == {"rest": 3, "heads": 30, "extension": 300, "post": 5}
    assert clock.read() == {}


def test_a_stage_within_itself_counts_once():
    hand = Hand()
    clock = StageClock(hand)
    with clock.stage("backbone"):
        hand.now += 1
        with clock.stage("backbone"):
            hand.now += 10
    assert clock.read() == {"backbone": 11}


def test_a_stage_that_raises_ends():
    hand = Hand()
    clock = StageClock(hand)
    with pytest.raises(ZeroDivisionError), clock.stage("rest"), clock.stage("backbone"):
        hand.now += 1
        raise ZeroDivisionError
    with clock.stage("post"):
        hand.now += 7
    assert clock.read() == {"backbone": 1, "rest": 0, "post": 7}


def test_marks_need_not_be_numbers():
    clock = StageClock(iter(["a", "bbb", "ffffff"]).__next__, lambda earlier, later: len(later) - len(earlier))
    with clock.stage("backbone"):
        pass
    assert clock.read() == {"backbone": 2}


def test_what_pooling_calls_is_not_pooling():
    hand = Hand()
    model = lazy_detector(hand)
    stages, clock = Stages(model), StageClock(hand)
    with stages.counted_by(clock):
        hand.now += 0.5
        model.rpn()
        model.roi_heads()
    assert clock.read() == {"rest": 0.5, "rpn": 2000, "heads": 2, "backbone": 200, "extension": 20}


def test_without_a_clock_the_parts_run_all_the_same():
    hand = Hand()
    model = lazy_detector(hand)
    stages = Stages(model)
    model.roi_heads()
    assert hand.now == 222 and stages.clock is None


def test_a_detector_inside_a_model_is_found():
    hand = Hand()
    outer = nn.Module()
    outer.detector = lazy_detector(hand)
    stages, clock = Stages(outer), StageClock(hand)
    with stages.counted_by(clock):
        outer.detector.rpn()
    assert clock.read()["rpn"] == 2000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_events_measure_what_the_device_does():
    clock = stopwatch(torch.device("cuda"))
    matrix = torch.rand(4096, 4096, device="cuda")
    with clock.stage("rest"), clock.stage("backbone"):
        for _ in range(20):
            matrix = matrix @ matrix
    torch.cuda.synchronize()
    spent = clock.read()
    assert spent["backbone"] > 10 * spent["rest"] >= 0
