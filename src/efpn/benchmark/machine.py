"""What a reader must know of the machine and the call; no name and no path that belongs to the machine."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torchvision

from efpn.evaluation.provenance import git_commit, hardware

CPU_FACTS: Final = Path("/proc/cpuinfo")


def machine_facts(device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    """Hardware, versions, command and commit.

    Args:
        device: that was measured.
        arguments: of the command, in order.
    """
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "cpu": cpu_model(),
        "cores": hardware(),
        **gpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "command": command(arguments),
        "commit": git_commit(),
    }


def command(arguments: Sequence[str]) -> str:
    """The call, to be pasted into a shell; an absolute path is shortened to its last part."""
    return shlex.join(["python", "-m", "efpn.benchmark", *map(_shortened, arguments)])


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _shortened(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word
