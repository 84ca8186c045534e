"""Signals that end a run in order: Ctrl-C, SIGTERM, and those by which SLURM tells that a job's time is up.

No torch. Whoever waits for the run sees 128 + signal as its exit status, as of any program that a signal has ended.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any, Final, Self

from efpn.errors import Interrupted

log = logging.getLogger(__name__)

TIME_UP: Final = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))  # submitit: 2
WATCHED: Final = (signal.SIGINT, signal.SIGTERM, *TIME_UP)


class SignalWatch:
    """Notes a signal for the training to stop at the end of its step; a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None  # the first signal that came, or None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over, in the main thread, where alone that can be."""
        self.before = {one: signal.getsignal(one) for one in WATCHED}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        """Give them back."""
        if threading.current_thread() is threading.main_thread():
            for one, handler in self.before.items():
                signal.signal(one, handler)

    def install(self) -> None:
        """Take the signals over again from a library that has done so meanwhile (Lightning, in each fit)."""
        if threading.current_thread() is threading.main_thread():
            for one in WATCHED:
                signal.signal(one, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        log.warning("%s: the training ends after this step", self.received.name)


def stop_at_sigterm() -> None:
    """Let SIGTERM unwind this process as Ctrl-C does, instead of ending it where it stands."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number, "stopped")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def leave_to_main(worker: int = 0) -> None:
    """In a loader's worker: ignore the signals, which reach the whole job; the worker ends with its main process."""
    for one in WATCHED:
        signal.signal(one, signal.SIG_IGN)


def end_workers() -> None:
    """End what is left of loaders' workers: Python would wait for them for ever, as they ignore its SIGTERM."""
    left = [worker for worker in multiprocessing.active_children() if worker.daemon]
    if not left or threading.current_thread() is not threading.main_thread():
        return
    died = getattr(signal, "SIGCHLD", None)  # not on Windows
    before = died and signal.signal(died, signal.SIG_DFL)  # torch raises at a worker that is killed
    for worker in left:
        worker.kill()
    for worker in left:
        worker.join()
    if died:
        signal.signal(died, before or signal.SIG_DFL)


def requeued() -> bool:
    """Whether this is a SLURM job that runs once more."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def slurm_job() -> str | None:
    """Id of the SLURM job that this process belongs to, or None."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def requeue() -> str:
    """Ask SLURM to run this job once more; returns what came of it, in words; nothing outside a job."""
    if not (job := slurm_job()):
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = str(error)
    return f"; requeueing job {job} failed ({failure})" if failure else f"; job {job} is requeued and goes on by itself"
