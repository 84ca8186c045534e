"""All there is to know about some pieces of work: time by stage, multiply-adds, parameters, peak memory, and ratios.

Peak memory is what a piece of work needs above what stands before its first run (weights, input, the program itself),
in training with gradients and the optimizer's state. On CUDA this is ``torch.cuda.max_memory_allocated`` less what was
allocated before: tensors, without the allocator's reserve. On a CPU it is the growth of the resident memory of a fresh
process, from before the first run to the peak over two: torch's profiler does not see the kernels' scratch buffers.

The C library keeps freed memory, which can hide an allocation or add to the peak; the child process is therefore told
(glibc's MALLOC_MMAP_THRESHOLD_) to map every block of 1 MiB or more by itself and to give it back at once. Elsewhere
than on Linux there is no such switch, and the peak is the largest ever: one below that of building the model is unseen.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from efpn.benchmark.setting import Setting, read_setting
from efpn.benchmark.timing import STAGES, StageClock, Workload, interleave, stop_watched, summed_up, synchronise

log = logging.getLogger(__name__)
Record = Mapping[str, Any]
Build = Callable[[Setting, str], Workload]  # a function of a module, which a child process finds
RUNS: Final = 2  # whose peak is taken
THRESHOLD: Final = "MALLOC_MMAP_THRESHOLD_"
STATUS: Final = Path("/proc/self/status")


def measure(
    titles: Mapping[str, str], build: Build, setting: Setting, stages: Sequence[str] = STAGES
) -> dict[str, Record]:
    """Measure pieces of work, given as titles by name and built by name, interleaved.

    Returns by name: ``title``, what `summed_up` says of its time, ``multiply_adds`` (by stage), ``parameters``,
    ``weight_bytes``, ``peak_bytes`` (None if not asked for).
    """
    peaks = {name: peak_of(name, build, setting) if setting.cfg.memory else None for name in titles}
    works = {name: build(setting, name) for name in titles}
    counted = {name: multiply_adds(work) for name, work in works.items()}
    watched = {name: stop_watched(work, setting.device) for name, work in works.items()}
    readings = interleave(watched, setting.cfg.repeats, setting.cfg.warmup)
    return {
        name: {
            "title": title,
            **summed_up(readings[name], stages, name),
            "multiply_adds": counted[name],
            # frozen batch-norm has buffers, which count as weights alone
            "parameters": sum(parameter.numel() for parameter in works[name].model.parameters()),
            "weight_bytes": sum(tensor.nbytes for tensor in works[name].model.state_dict().values()),
            "peak_bytes": peaks[name],
        }
        for name, title in titles.items()
    }


def multiply_adds(work: Workload) -> dict[str, int]:
    """Multiply-adds of one run by stage: of convolutions and matrix products, which torch counts as two each."""
    with FlopCounterMode(display=False) as counter:
        clock = StageClock(counter.get_total_flops)
        with work.stages.counted_by(clock):
            work.run(0)
        return {stage: int(flops) // 2 for stage, flops in clock.read().items()}


def peak_of(name: str, build: Build, setting: Setting) -> int:
    """Peak memory of the piece of work ``name``: on a CPU that of a child process that builds and runs it alone.

    Raises:
        UserError: the child could not do what it was told; as any other error of its own.
        RuntimeError: it was ended.
    """
    log.info("peak memory of %s", name)
    if setting.device.type != "cpu":
        return peak_bytes(build(setting, name), setting.device)
    told = DictConfig(OmegaConf.to_container(setting.cfg, resolve=True))
    context, before = get_context("spawn"), os.environ.get(THRESHOLD)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=peak_alone, args=(theirs, name, build, told), daemon=True)
    os.environ[THRESHOLD] = str(1 << 20)  # the child's: this process has begun without it
    try:
        child.start()
    finally:
        os.environ.pop(THRESHOLD)
        if before is not None:
            os.environ[THRESHOLD] = before
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        raise RuntimeError(f"measuring the memory of {name} failed: its process was ended") from None
    finally:  # a signal to this process ends the child too
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return int(answer)


def peak_alone(answer: Connection, name: str, build: Build, cfg: DictConfig) -> None:
    """What the child does: send the peak, or what went wrong."""
    try:
        setting = read_setting(cfg)
        answer.send(peak_bytes(build(setting, name), setting.device))
    except Exception as error:  # raised again where it is received
        answer.send(error)


def peak_bytes(work: Workload, device: torch.device) -> int:
    """Run the work twice, for the first time, and return its peak (see the module)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = resident_bytes("VmRSS")
    for turn in range(RUNS):
        work.run(turn)
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes("VmHWM")) - before


def resident_bytes(field: str) -> int:
    """Resident memory of this process, now (``VmRSS``) or at its peak (``VmHWM``).

    On Linux not ``ru_maxrss``, which starts from the size of the process that started this one; elsewhere it is all
    there is, and always the peak.
    """
    if STATUS.is_file() and (found := re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def evaluate(ratios: Iterable[Record], measured: Mapping[str, Record]) -> list[dict[str, Any]]:
    """``name, value, target, met`` of the config's ratios, as far as both sides were measured.

    Absolute numbers do not carry over to another machine; these do. Each has a ``name``, the two sides ``of`` and
    ``to``, ``what`` of them is compared (``time`` or ``memory``), and the ``target`` that it may not pass, or none.
    """
    read = {"time": lambda record: record["seconds"]["median"], "memory": lambda record: record["peak_bytes"]}
    found = []
    for ratio in ratios:
        sides = [measured.get(ratio[side]) for side in ("of", "to")]
        above, below = (None if side is None else read[ratio["what"]](side) for side in sides)
        if above is not None and below:
            value, target = above / below, ratio["target"]
            met = None if target is None else value <= target
            found.append({"name": ratio["name"], "value": value, "target": target, "met": met})
    return found
