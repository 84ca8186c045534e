"""What a benchmark may be told, checked before anything is built."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from efpn.benchmark.proposals import Composition
from efpn.benchmark.words import read_device, read_size
from efpn.errors import UserError, require_count, require_share
from efpn.models import Windows

PRECISIONS: Final = {"32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
COUNTED: Final = ("batch", "channels", "ftt_width", "classes", "repeats", "objects", "proposals")  # options from 1 up
OUT: Final = "outputs/benchmarks"
COUNTED_FROM_0: Final = ("warmup", "seed", "small", "threads")


@dataclass(frozen=True)
class Options:
    """One setting; all measured models share it.

    Attributes:
        height, width: pixels of the 1x picture.
        batch: pictures at a time.
        precision: ``32``, ``bf16`` or ``fp16`` (autocast).
        device: where it runs.
        threads: of torch on a CPU.
        backbone: a ResNet of torchvision.
        channels: depth of the pyramid.
        ftt_width: width of the FTT module.
        classes: with the background.
        channels_last: memory layout of our models; torchvision's stays as it comes.
        compile: torch.compile on trunk, FPN and extension.
        proposals: see `Composition`.
        repeats, warmup: turns that count, and turns before them.
        margin: cells of P3 that each of FTT's two stages sees around a window at the most; None is all that it can.
        objectness: proposals of a trained run below it are dropped; None is what each of its phases says.
        seed: of weights, pictures, proposals.
        out: folder of the results.
        memory: measure peak memory too.
        run: folder of a trained run, or None for random weights.
        pictures: a folder or glob of pictures; with ``run``.
        size_given: whether ``height`` was asked for; a trained run has a size of its own.
    """

    height: int
    width: int
    batch: int
    precision: str
    device: torch.device
    threads: int
    backbone: str
    channels: int
    ftt_width: int
    classes: int
    channels_last: bool
    compile: bool
    proposals: Composition
    repeats: int
    warmup: int
    margin: int | None
    seed: int
    out: Path
    memory: bool = False
    run: str | None = None
    pictures: str | None = None
    objectness: float | None = None
    size_given: bool = True

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision as a context; full precision is one that does nothing."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def with_small(self, objects: int, small: int) -> Options:
        """The same with another number of small proposals around another number of spots."""
        return replace(self, proposals=replace(self.proposals, objects=objects, small=small))

    @property
    def windows(self) -> Windows:
        """How P2' is cut."""
        return Windows(margin=self.margin)

    @property
    def size_name(self) -> str:
        """``700``, or ``700x1000`` (height x width)."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of our models."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def name(self, what: str) -> str:
        """File name that says what was measured: ``inference-cpu-700-32``, and what differs from the defaults."""
        setting = self._setting()
        run = [self.run_name.replace("/", "-")] if self.run else []
        size = [self.size_name] if self.size_given or not self.run else []
        marks = [mark.format(setting[field]) for field, mark in MARKS.items() if _differs(setting, field)]
        return "-".join([what, self.device.type, *run, *size, self.precision, *marks])

    @property
    def run_name(self) -> str:
        """``mosaic_efpn/seed0``: the last two folders of the run."""
        return Path(*Path(str(self.run)).resolve().parts[-2:]).as_posix()

    def as_record(self) -> dict[str, Any]:
        """For JSON and Markdown; no path of the machine."""
        size = self.size_name if self.size_given or not self.run else "the run's own"
        run = {"run": self.run_name} if self.run else {}
        how = {name: getattr(self, name) for name in ("precision", "repeats", "warmup", "seed")}
        return {**run, "size": size, **self._setting(), **how}

    def _setting(self) -> dict[str, Any]:
        """What an option can change, by the option's name; of a trained run what it does not have of its own."""
        how = self.proposals
        named = {field: getattr(self, field) for field in MARKS if hasattr(self, field)}
        named |= {"proposals": how.total, "small": how.small, "objects": how.objects, "small_below": how.below}
        unused = UNTRAINED if self.run else ("objectness",)
        return {field: value for field, value in named.items() if field not in unused}


def _differs(setting: dict[str, Any], field: str) -> bool:
    return field in setting and setting[field] != DEFAULTS[field]


DEFAULTS: Final[dict[str, Any]] = {
    "size": "700",
    "batch": 1,
    "backbone": "resnet50",
    "channels": 256,
    "ftt_width": 128,
    "classes": 46,
    "proposals": 1000,
    "small": 300,
    "objects": 20,
    "small_below": 56.0,
    "margin": None,
    "objectness": None,
    "channels_last": True,
    "compile": False,
}
UNTRAINED: Final = (  # options of detectors with random weights and proposals
    "backbone", "channels", "ftt_width", "classes", "proposals", "small", "objects", "small_below"
)  # fmt: skip
MARKS: Final = {  # in a file name, where an option differs from its default
    "backbone": "{}", "channels": "{}ch", "ftt_width": "ftt{}", "classes": "{}classes", "proposals": "{}proposals",
    "small": "{}small", "objects": "{}objects", "small_below": "below{:g}", "margin": "margin{}",
    "objectness": "objectness{:g}", "batch": "b{}", "channels_last": "contiguous", "compile": "compiled",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, *, repeats: int, warmup: int) -> None:
    """The options that all measurements of models share.

    Args:
        parser: they go into.
        repeats: turns by default.
        warmup: likewise.
    """
    flag = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--size", metavar="PX", help="1x picture: PX, or HEIGHTxWIDTH (default 700)")
    add("--batch", type=int, default=DEFAULTS["batch"], metavar="N", help="pictures at a time (default 1)")
    add("--precision", choices=PRECISIONS, default="32", help="32, or autocast to bf16 or fp16 (default 32)")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    add("--threads", type=int, default=0, metavar="N", help="torch's threads on a CPU (default: torch's own choice)")
    add("--backbone", default=DEFAULTS["backbone"], metavar="NAME", help="a ResNet of torchvision (default resnet50)")
    add("--channels", type=int, default=DEFAULTS["channels"], metavar="N", help="depth of the pyramid (default 256)")
    add(
        "--ftt-width",
        type=int,
        default=DEFAULTS["ftt_width"],
        metavar="N",
        help="width of FTT (default 128)",
    )
    add(
        "--classes",
        type=int,
        default=DEFAULTS["classes"],
        metavar="N",
        help="with the background (default 46, TT100K's)",
    )
    add(
        "--proposals",
        type=int,
        default=DEFAULTS["proposals"],
        metavar="N",
        help="in each picture (default 1000)",
    )
    add("--small", type=int, default=DEFAULTS["small"], metavar="N", help="how many are small (default 300)")
    add("--objects", type=int, default=DEFAULTS["objects"], metavar="K", help="spots that they lie around (default 20)")
    below = "what counts as small, sqrt(w h) (default 56)"
    add("--small-below", type=float, default=DEFAULTS["small_below"], metavar="PX", help=below)
    add("--margin", type=int, metavar="N", help="most cells that each stage of FTT sees around a window (default: all)")
    add("--channels-last", action=flag, default=True, help="memory layout of our models (default: yes)")
    add(
        "--compile",
        action="store_true",
        help="torch.compile on trunk, FPN and, where P2' is computed whole, the extension",
    )
    add("--repeats", type=int, default=repeats, metavar="N", help=f"turns that count (default {repeats})")
    add("--warmup", type=int, default=warmup, metavar="N", help=f"turns before them (default {warmup})")
    add("--seed", type=int, default=0, metavar="N", help="of weights, pictures and proposals (default 0)")
    add("--out", default=OUT, metavar="DIR", help=f"where results go (default {OUT}/)")


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """The options of those that measure peak memory too."""
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # a child process: print what this one needs, and end


def read_options(given: argparse.Namespace) -> Options:
    """Check what was given.

    Raises:
        UserError: naming the option and what it may be.
    """
    for name in COUNTED:
        require_count(f"--{name.replace('_', '-')}", getattr(given, name), least=1)
    for name in COUNTED_FROM_0:
        require_count(f"--{name}", getattr(given, name), least=0)
    if given.margin is not None:
        require_count("--margin", given.margin, least=0)
    if getattr(given, "objectness", None) is not None:
        require_share("--objectness", given.objectness)
    height, width = read_size(given.size or DEFAULTS["size"])
    if getattr(given, "run", None):
        _require_trained(given)
    else:
        _require_composition(given, height, width)
    own = {name: getattr(given, name) for name in Options.__dataclass_fields__ if hasattr(given, name)}
    proposals = Composition(given.proposals, given.small, given.objects, given.small_below)
    device = read_device(given.device)
    more = {"device": device, "proposals": proposals, "out": Path(given.out), "size_given": given.size is not None}
    return Options(**{**own, **more, "height": height, "width": width})


def _require_trained(given: argparse.Namespace) -> None:
    for name in UNTRAINED:
        if getattr(given, name) != DEFAULTS[name]:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option}={getattr(given, name)}: a trained --run has its own; leave it out")


def _require_composition(given: argparse.Namespace, height: int, width: int) -> None:
    if given.proposals < max(given.small, 1):
        raise UserError(f"--proposals={given.proposals}: fewer than --small={given.small}; raise it or lower --small")
    if not 8 <= given.small_below <= 0.8 * min(height, width):
        raise UserError(
            f"--small-below={given.small_below:g}: must be from 8 to 0.8 of the picture's shorter side "
            f"({0.8 * min(height, width):g} here), so that small and other proposals fit in; give another, or --size"
        )
