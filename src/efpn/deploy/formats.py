"""What an export can be asked for: the files that a traced detector is written to and run from.

torch and the packages of a format are imported where they are used, so that a missing one is told at once.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from efpn.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from efpn.types import Detections

OPSET = 18  # the exporter's own
INPUT, OUTPUTS = "image", ("boxes", "labels", "scores")
Runner = Callable[["Tensor"], "Detections"]


class Format(ABC):
    """A kind of file."""

    file: ClassVar[str]  # its name
    needs: ClassVar[Sequence[str]] = ()  # packages beyond the project's own
    facts: ClassVar[Mapping[str, Any]] = {}  # what a reader of the file must know

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write the traced detector to one file, with the weights in it."""

    @abstractmethod
    def load(self, path: Path) -> Runner:
        """Read it back: a function from an image ``(3, H, W)`` to its detections."""


class Onnx(Format):
    """ONNX, run by ONNX Runtime on the CPU."""

    file = "model.onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    facts: ClassVar[Mapping[str, Any]] = {"opset": OPSET}

    def write(self, program: ExportedProgram, path: Path) -> None:
        """See `Format`."""
        import torch

        for name in ("onnx_ir", "onnxscript"):  # a line for every constant that they merge
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's use of names that torch is about to drop
            converted = torch.onnx.export(
                program, input_names=[INPUT], output_names=OUTPUTS, opset_version=OPSET, dynamo=True, verbose=False
            )
        assert converted is not None
        converted.save(path, external_data=False)

    def load(self, path: Path) -> Runner:
        """A session of ONNX Runtime."""
        import onnxruntime
        import torch

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda image: _named(map(torch.from_numpy, session.run(list(OUTPUTS), {INPUT: image.numpy()})))


class Torch(Format):
    """``torch.export``'s own archive, run by torch and torchvision alone."""

    file = "model.pt2"

    def write(self, program: ExportedProgram, path: Path) -> None:
        """See `Format`."""
        import torch

        with warnings.catch_warnings():
            # of weights in channels_last, on the CPU too
            warnings.filterwarnings("ignore", message="No complete tensor")
            torch.export.save(program, path)

    def load(self, path: Path) -> Runner:
        """The graph as a module."""
        import torch
        import torchvision  # noqa: F401  (registers nms and roi_align)

        module = torch.export.load(path).module()
        return lambda image: _named(module(image))


def _named(outputs: Iterable[Tensor]) -> Detections:
    boxes, labels, scores = outputs
    return {"boxes": boxes, "labels": labels, "scores": scores}


def check_packages(chosen: Format) -> None:
    """Refuse a format whose packages are not installed (raises `UserError`: with the command that installs them)."""
    missing = [name for name in chosen.needs if find_spec(name) is None]
    if missing:
        raise UserError(f"{chosen.file}: needs {', '.join(missing)}, not installed here; pip install -e '.[export]'")
