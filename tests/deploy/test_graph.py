"""The graph against the detector: in eager mode for all kinds of detectors, from ``torch.export``'s file at any size.

ONNX is held against a detector in ``test_export.py``, and here what tells small RoIs from others.
"""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import nn

from deploy.conftest import SIZES, agrees, blank, noise, random_detector
from efpn.deploy.graph import DetectorGraph
from efpn.models import Resize, fasterrcnn_resnet50_efpn
from efpn.models.filters import survivors

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph")]  # what is exported once serves all


def found(outputs):
    return dict(zip(("boxes", "labels", "scores"), outputs, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"own_head": False}, {"extended": False}, {"below": 1e-3}, {"below": 1e4}], ids=str
)
def test_the_graph_is_the_detector(options):
    detector = random_detector(**options)
    graph = DetectorGraph(detector)
    for size in SIZES[:3]:
        expected, got = detector([noise(*size)])[0], found(graph(noise(*size)))
        assert len(expected["scores"]) > 5
        for key, value in expected.items():
            assert torch.equal(got[key], value), key


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_file_gives_what_the_detector_gives_at_any_size(detector, exported, size):
    agrees(detector, exported, noise(*size))


def test_an_image_without_detections_gives_empty_outputs(detector, exported):
    assert len(detector([blank(96, 96)])[0]["scores"]) == 0
    got = exported(blank(96, 96))
    assert [tuple(got[key].shape) for key in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]


class Survivors(nn.Module):
    """NMS over the boxes of some score, whose number the trace does not know."""

    def forward(self, boxes, scores):
        rows = torch.where(scores > 0.5)[0]
        boxes, scores = boxes[rows], scores[rows]
        return boxes[survivors(boxes, scores, 0.5)]


@pytest.mark.filterwarnings("ignore:.*create_unbacked_symint")  # inside torchvision's nms
def test_nms_may_leave_nothing_or_one_in_a_traced_graph():
    """torchvision declares that it leaves two or more."""
    sides = torch.tensor([[10.0, 10, 30, 30], [11, 10, 30, 30], [60, 60, 80, 80], [10, 60, 30, 80]])
    rows = {0: torch.export.Dim("n")}
    program = torch.export.export(Survivors(), (sides, torch.rand(4)), dynamic_shapes={"boxes": rows, "scores": rows})
    for scores, left in [([0, 0, 0, 0], []), ([0.6, 0.9, 0, 0], [1]), ([0.9, 0.6, 0, 0.7], [0, 3])]:
        assert torch.equal(program.module()(sides, torch.tensor(scores, dtype=torch.float32)), sides[left])


class BoxOutputs(nn.Module):
    """The part of the graph in which small RoIs go their own way, on RoIs of our choice."""

    def __init__(self, detector):
        super().__init__()
        self.whole = DetectorGraph(detector)

    def forward(self, maps, rois):
        return self.whole.box_outputs(maps, rois)


@pytest.fixture(scope="module")
def split(detector, tmp_path_factory):
    """`BoxOutputs`, its maps of an image of 128 px, and the same in ONNX Runtime."""
    maps = detector.backbone(noise(128, 128)[None])
    module = BoxOutputs(detector).eval()
    shapes = {"maps": dict.fromkeys(maps), "rois": {0: torch.export.Dim("n")}}
    program = torch.export.export(
        module, (maps, boxes(4, 4)), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
    )
    path = tmp_path_factory.mktemp("split") / "split.onnx"
    torch.onnx.export(program, opset_version=18, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(str(path))
    names = [one.name for one in session.get_inputs()]

    def run(rois):
        used = {name: maps[key].numpy() for name in names for key in maps if name.endswith(f"_{key}")}
        return session.run(None, {**used, names[-1]: rois.numpy()})

    return module, maps, run


def boxes(small, large):
    """RoIs of 10 and of 60 px, in turn."""
    corners = torch.rand(small + large, 2, generator=torch.Generator().manual_seed(0)) * 60
    sides = torch.tensor([10.0] * small + [60.0] * large)[torch.randperm(small + large)]
    return torch.cat([corners, corners + sides[:, None]], dim=1)


@pytest.mark.parametrize("small, large", [(7, 5), (7, 0), (0, 5), (1, 1), (0, 0)])
def test_small_rois_go_their_own_way_in_onnx(split, detector, small, large):
    module, maps, run = split
    rois = boxes(small, large)
    expected = detector.roi_heads.box_outputs(maps, [rois], [(128, 128)])
    for got, mine, value in zip(run(rois), module(maps, rois), expected, strict=True):
        assert got.shape == value.shape
        assert torch.equal(mine, value)
        assert torch.allclose(torch.from_numpy(got), value, atol=1e-4)


def test_a_detector_that_resizes_is_refused():
    detector = fasterrcnn_resnet50_efpn(3, arch="resnet18", weights_backbone=None, ftt_width=8, resize=Resize(64, 64))
    with pytest.raises(ValueError, match="build the detector with resize=None"):
        DetectorGraph(detector)
