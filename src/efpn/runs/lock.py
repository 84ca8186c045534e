"""One process at a time in a phase's folder, on one machine or on several that share it. No torch."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Self

from efpn.errors import UserError
from efpn.runs.files import LOCK_FILE, make_folder
from efpn.signals import requeued, slurm_job

log = logging.getLogger(__name__)

BEAT: Final = 20.0  # seconds between two signs of life
LOOK: Final = 2.0  # seconds between two looks at a lock that is waited for
SILENT: Final = 300.0  # seconds without one, after which a process of another machine counts as dead


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock."""

    host: str  # where it runs
    pid: int  # its number there
    born: str  # when it was started, in the words of its machine; tells it from a later process of the same number
    job: str | None  # its SLURM job, or None

    @classmethod
    def me(cls) -> Self:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), birth(os.getpid()), slurm_job())

    @classmethod
    def of(cls, text: str) -> Self | None:
        """The owner that a lock file names; None if it was cut off while it was written, or damaged since."""
        try:
            record = json.loads(text)
        except ValueError:
            return None
        whole = isinstance(record, dict) and set(record) == {one.name for one in fields(cls)}
        return cls(**record) if whole and type(record["pid"]) is int else None

    def lives(self, silence: float) -> bool:
        """Whether it still runs; of another machine's process, only how long it has been silent (seconds) tells."""
        if requeued() and self.job is not None and self.job == slurm_job():
            return False  # SLURM starts a job again only when it has ended
        if self.host != socket.gethostname():
            return silence < SILENT
        return birth(self.pid) == self.born != ""


def birth(pid: int) -> str:
    """When a process of this machine was started, as far as the system tells; empty if there is none, or a zombie."""
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else others[18]
    except OSError:
        pass  # no such process, or a system without /proc
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass  # it is of another user
    return "unknown"


@contextmanager
def lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a phase's folder, which is made (raises `UserError`: another process holds it).

    With ``wait`` that is waited for, as long as it lives.
    """
    make_folder(folder)
    path, told = folder / LOCK_FILE, False
    while not created(path, json.dumps(asdict(Owner.me()))):
        try:
            refuse_or_clear(path)
        except UserError as held:
            if not wait:
                raise
            if not told:
                log.info("waiting: %s", str(held).partition(";")[0])
            told = True
            time.sleep(LOOK)
    ended = threading.Event()

    def keep_alive() -> None:
        while not ended.wait(BEAT):
            try:
                os.utime(path)
            except FileNotFoundError:
                log.warning("%s is gone: nothing keeps another process out of this folder", path)
                return
            except OSError as error:  # a network file system may come back
                log.warning("%s: cannot be kept alive (%s)", path, error)

    threading.Thread(target=keep_alive, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        path.unlink(missing_ok=True)


def created(path: Path, text: str) -> bool:
    """Make the lock file unless there is one; one that is still being written counts, of an unknown process."""
    try:
        file = path.open("x")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(text)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def refuse_or_clear(path: Path) -> None:
    """Raise `UserError` if the owner of a lock lives, else take the lock away; nothing where there is none.

    Of several processes that find it stale, one succeeds to rename it; what it then holds is looked at once more, in
    case it is the new lock of another that was faster.
    """
    try:
        found = path.read_text(errors="replace")
        probe = path.with_name(f".lock.now.{socket.gethostname()}.{os.getpid()}")
        probe.touch()  # now, by the clock of the file system that both see
        try:
            silence = max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
        finally:
            probe.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    owner = Owner.of(found)
    who = f"process {owner.pid} on {owner.host}" if owner else "an unknown process"
    if owner.lives(silence) if owner else silence < SILENT:
        raise UserError(
            f"{path.parent}: in use by {who}, last sign of life {silence:.0f} s ago; wait for it, give name=OTHER, or, "
            f"if it is known to be dead, remove {path}"
        )
    aside = path.with_name(f".lock.stale.{socket.gethostname()}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if (moved := aside.read_text(errors="replace")) != found:
        created(path, moved)  # back to where it was, if a third process has not been faster still
    else:
        log.warning("%s: taken over from %s, which is dead", path.parent, who)
    aside.unlink()
