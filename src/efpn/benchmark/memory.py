"""Peak memory of one piece of work, above what stands before its first run (weights, input, the program itself).

On CUDA this is ``torch.cuda.max_memory_allocated`` less what was allocated before: tensors, without the caching
allocator's reserve. On a CPU it is the growth of the resident memory of a fresh process that does nothing else, from
before the first run to the peak over two runs. In training the gradients and the optimizer's state are part of it.

What a CPU's number holds besides tensors: scratch buffers of the kernels and weights that they keep in a layout of
their own (a few MB). The C library keeps freed memory for later, which can hide an allocation or add to the peak; the
child process is therefore told (glibc's MALLOC_MMAP_THRESHOLD_) to map every block of 1 MiB or more by itself and to
give it back at once. Elsewhere than on Linux there is no such switch, and the peak is the process's largest ever, so
that a peak below that of building the model is not seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from efpn.benchmark.timing import Workload
from efpn.errors import UserError

MISTAKE = "error: "  # what the line of a `UserError` begins with
STATUS = Path("/proc/self/status")
RUNS = 2


def peak_bytes(work: Workload, device: torch.device) -> int:
    """Run the work twice, for the first time, and return its peak (see the module)."""
    if device.type == "cuda":
        return _cuda_peak(work, device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = resident_bytes()
    for turn in range(RUNS):
        work.run(turn)
    return largest_resident_bytes() - before


def peak_of_a_fresh_process(arguments: Sequence[str], name: str) -> int:
    """Let a child of the same command line build and measure ``name`` alone.

    Args:
        arguments: of this command.
        name: model or step.

    Raises:
        UserError: what the child was told cannot be; in its words.
        RuntimeError: the child failed; with its last words.
    """
    command = [sys.executable, "-m", "efpn.benchmark", *arguments, "--peak-of", name]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        if said.startswith(MISTAKE):
            raise UserError(said.removeprefix(MISTAKE))
        raise RuntimeError(f"measuring the memory of {name} failed: {said}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def resident_bytes() -> int:
    """Resident memory of this process now (where only the peak is known: that)."""
    return _from_status("VmRSS") or largest_resident_bytes()


def largest_resident_bytes() -> int:
    """Peak of the resident memory of this process.

    On Linux not ``ru_maxrss``: that starts from the size of the process that started this one.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _from_status(field: str) -> int | None:
    if not STATUS.is_file():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _cuda_peak(work: Workload, device: torch.device) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    for turn in range(RUNS):
        work.run(turn)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
