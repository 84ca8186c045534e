"""The detectors of a trained run, and real pictures for them."""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from efpn.benchmark.inputs import Batch
from efpn.benchmark.options import Options
from efpn.data.dataset import halve, to_tensor
from efpn.data.pictures import read_picture
from efpn.data.transforms import NO_BOXES, Transform
from efpn.errors import UserError
from efpn.models import Detail, EFPNDetector, Nearest, SmallRoIs
from efpn.models.roi_heads import PyramidRoIAlign
from efpn.prediction.pictures import find_pictures
from efpn.runs.checkpoints import read_handover
from efpn.runs.rebuild import rebuild_detector, resize_to
from efpn.runs.saved import SavedRun, saved_runs


class TrainedDetectors:
    """The detectors of a run's phases: the plain ones from ``baseline``, the extended from the last phase there is.

    Args:
        options: the setting; ``run`` is the folder of the phases.

    Raises:
        UserError: a phase is missing.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        found = {run.phase: run for run in saved_runs(str(options.run))}
        self._plain, self._extended = found.get("baseline"), found.get("finetune") or found.get("distill")

    def fpn(self) -> EFPNDetector:
        """The baseline."""
        return self._rebuilt(self._plain, "baseline")

    def oracle(self) -> EFPNDetector:
        """The baseline with small RoIs on a ``p2x`` that is given."""
        detector = self.fpn()
        assert self._plain is not None, "self.fpn() would have said so"
        detector.roi_heads.box_roi_pool = PyramidRoIAlign(SmallRoIs(self._plain.config.small_roi_below))
        return detector

    def efpn(self, whole: bool = False) -> EFPNDetector:
        """The finetuned detector, or the distilled one; P2' on windows, or whole."""
        detector = self._rebuilt(self._extended, "distill")
        detector.backbone.windows = None if whole else self.options.windows
        return detector

    def nearest(self) -> EFPNDetector:
        """The same with nearest upsampling in FTT's place; its time is right, its detections mean nothing."""
        detector = self.efpn()
        detector.backbone.extension.upsampler = Nearest()
        return detector

    def second_pass(self, detail: Detail) -> EFPNDetector:
        """A run has one extension, that of `efpn`.

        Raises:
            UserError: always.
        """
        raise UserError("--models=second-pass: a --run has one extension; --models=efpn measures it")

    def reference(self) -> nn.Module:
        """torchvision's own detector has no weights of the run.

        Raises:
            UserError: always.
        """
        raise UserError("--models=torchvision: has no weights of a --run; leave it out")

    def _rebuilt(self, run: SavedRun | None, phase: str) -> EFPNDetector:
        if run is None:
            raise UserError(f"--run={self.options.run}: phase {phase} is not finished there; finish it with train.py")
        detector = rebuild_detector(run, read_handover(run.checkpoint))
        if self.options.objectness is not None:
            detector.rpn.test_score_thresh = self.options.objectness
        return detector.to(memory_format=self.options.memory_format)


@cache
def picture_batches(options: Options) -> list[Batch]:
    """Batches of 1x and 2x pictures, resized as the run's own evaluation resizes them; at most one for each turn.

    Raises:
        UserError: no picture is found, or one cannot be read.
    """
    run = saved_runs(str(options.run))[0]
    node = run.config.data.eval_transform.copy()
    resize_to(node, options.height if options.size_given else None)
    transform: Transform = instantiate(node, _convert_="all")
    paths = [picture.path for picture in find_pictures([str(options.pictures)], options.out)]
    needed = min(options.repeats * options.batch, -(-len(paths) // options.batch) * options.batch)
    pairs = [_pair(path, transform, options) for path in islice(cycle(paths), needed)]
    groups = [pairs[start : start + options.batch] for start in range(0, needed, options.batch)]
    return [([one for one, _ in group], [two for _, two in group]) for group in groups]


def proposal_counts(options: Options) -> dict[str, float]:
    """What the run's RPN, the same in all phases, proposes in the 1x pictures: mean per picture, and how many small."""
    detector = TrainedDetectors(options).oracle().eval().to(options.device)
    proposed: list[Tensor] = []
    detector.rpn.register_forward_hook(lambda module, given, answer: proposed.extend(answer[0]))
    with torch.inference_mode(), options.autocast():
        for images, _ in picture_batches(options):
            batch, _ = detector.transform(images)
            detector.rpn(batch, detector.backbone(batch.tensors))
    small = sum(int(detector.roi_heads.box_roi_pool.is_small(boxes).sum()) for boxes in proposed)
    return {"proposals": sum(map(len, proposed)) / len(proposed), "small": small / len(proposed)}


def _pair(path: Path, transform: Transform, options: Options) -> tuple[Tensor, Tensor]:
    double = to_tensor(transform(read_picture(path), NO_BOXES, factor=2, seed=0).image)
    return halve(double).to(options.device), double.to(options.device)
