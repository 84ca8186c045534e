"""The command-line entries as processes of their own, without the seconds that each would take to import torch.

A server imports once and forks for every call. This file imports nothing of the project: what reads the command line
while it is imported, as `efpn.entry` does, is to find the call's own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["efpn.training.run", "efpn.evaluation.run", "efpn.prediction.run"])


class Call:
    """A script under way, in a session of its own, its output in ``<place>.out`` and ``<place>.err``.

    Args:
        script: in the project's folder.
        arguments: of the command line.
        place: of its output.
        environment: on top of this process's; a ``PYTHONPATH`` comes before what is there.
    """

    def __init__(self, script: str, arguments: Sequence[str], place: Path, **environment: str) -> None:
        self.out, self.err = place.with_suffix(".out"), place.with_suffix(".err")
        self.arguments = [script, *arguments]
        files = [str(self.out), str(self.err)]
        for file in (self.out, self.err):
            file.unlink(missing_ok=True)  # of a call before
        self.process: ForkServerProcess = SERVER.Process(
            target=_be, args=(self.arguments, files, {**os.environ, **environment})
        )
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the process and of its group."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.exitcode is None

    def wait_for(self, text: str, timeout: float = 240) -> str:
        """Its output, once that holds ``text``; fails with its errors if it never does."""
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if self.out.exists() and text in (said := self.out.read_text()):
                return said
            time.sleep(0.01)
        self.process.kill()
        raise AssertionError(f"no {text!r} from {self.arguments}: {self.err.read_text()}")

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """The outcome; the process is killed if it takes longer."""
        self.process.join(timeout)
        if self.running:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.out.read_text(), self.err.read_text())
        assert self.process.exitcode is not None
        said = self.out.read_text(), self.err.read_text()
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, *said)


def _be(arguments: list[str], files: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    multiprocessing.set_start_method("fork", force=True)  # Linux's own, for the workers of a loader
    for number, name in enumerate(files, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
    os.chdir(ROOT)
    runpy.run_path(sys.argv[0], run_name="__main__")
