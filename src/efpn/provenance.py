"""Where a number comes from: the commit, the command and the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path


def command_line() -> str:
    """The command that started this process, ready to be pasted into a shell."""
    return shlex.join(["python", *sys.argv])


@cache
def own_commit() -> str | None:
    """`git_commit` of this package when it was first asked for: of the code that runs."""
    return git_commit()


def git_commit(folder: Path | None = None) -> str | None:
    """The commit of the code in ``folder`` or here, ``-dirty`` when tracked files differ; None outside a repository."""
    where = folder or Path(__file__).parent
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def hardware() -> str:
    """Cores that this process may use, and the architecture, such as ``2 CPU cores (x86_64)``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'' if cores == 1 else 's'} ({platform.machine()})"
