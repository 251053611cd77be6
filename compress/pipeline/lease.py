"""Locks between machines: held by a folder with a heartbeat, taken over once the heart has stopped.

<folder>/<number>/owner    who took the lease as the number-th
                  beat     a count that grows for as long as the owner lives
                  done     once the owner has released it

All that is asked of the file system is a rename that is atomic. The highest number holds; taking the lease is renaming
a prepared folder to the next number, which only one can do. No clock is compared with another machine's: who waits sees
a count stand still, by its own clock. A holder that was merely asleep may wake up after its lease was taken, so a lease
saves work and guards nothing; see `cache.py` for what does.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds between two beats, and without a beat after which a lease is taken over. NFS may show a minute-old folder.
EVERY, EXPIRES = 10.0, 60.0
#: Seconds between two looks at a lease that another holds.
_LOOK = 0.5


@dataclass
class Lease:
    """One process's claim to the lease of `folder`. `owner` says where and what it is."""

    folder: Path
    owner: str = field(default_factory=lambda: _this_process())
    expires: float = field(default_factory=lambda: EXPIRES)
    mark: str = field(default_factory=lambda: f"@{uuid.uuid4().hex[:12]}")
    """Ends the names of folders that this claim alone writes."""
    _number: int = 0
    _beats: int = 0
    _sight: tuple[int, bytes] = (0, b"")
    _since: float = 0.0

    def attempt(self, now: float) -> bool:
        """Take the lease if nobody holds it, or if its holder's heart stands still. `now`: seconds of any clock that
        does not jump. Raises OSError."""
        top = self._top()
        if top and not (self.folder / str(top) / "done").exists():
            sight = (top, _read(self.folder / str(top) / "beat"))
            if sight != self._sight:
                self._sight, self._since = sight, now
            owner = _read(self.folder / str(top) / "owner").decode(errors="replace")
            if now - self._since < self.expires and not _is_gone(owner):
                return False
        return self._take(top + 1)

    def beat(self) -> bool:
        """Show that the holder lives; False once the lease is another's. Raises OSError."""
        if self.lost():
            return False
        self._beats += 1
        try:
            with (self.folder / str(self._number) / "beat").open("r+b") as file:
                file.write(b"%20d" % self._beats)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return False
        return True

    def lost(self) -> bool:
        """Whether another has taken over."""
        return self._top() != self._number

    def release(self) -> None:
        """Let the next one take it at once. Raises OSError."""
        with suppress(FileNotFoundError):
            (self.folder / str(self._number) / "done").touch()

    def _take(self, number: int) -> bool:
        prepared = self.folder.parent / f".{self.folder.name}{self.mark}"
        prepared.mkdir(parents=True)
        (prepared / "owner").write_text(self.owner, encoding="utf-8")
        (prepared / "beat").write_bytes(b"%20d" % 0)
        self.folder.mkdir(exist_ok=True)
        try:
            prepared.rename(self.folder / str(number))
        except OSError:  # another took this number
            shutil.rmtree(prepared)
            return False
        self._number, self._beats = number, 0
        if self.lost():  # this number was over long ago
            return False
        for earlier in self._numbers():
            if earlier < number:
                shutil.rmtree(self.folder / str(earlier), ignore_errors=True)
        return True

    def _top(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self.folder)]  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return []


@contextmanager
def leased(folder: Path, on_wait: Callable[[], None]) -> Iterator[Lease]:
    """Hold the lease that `folder` names, with a heart that beats; call `on_wait` first if another holds it."""
    lease, told = Lease(folder), False
    while not lease.attempt(time.monotonic()):
        if not told:
            on_wait()
            told = True
        time.sleep(_LOOK)
    ended = threading.Event()
    thread = threading.Thread(target=_beat_until, args=(lease, ended), name=f"lease {folder.name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()


def _beat_until(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        with suppress(OSError):  # a disk that is away for a while: the next beat may reach it
            if not lease.beat():
                return


def _this_process() -> str:
    return json.dumps({"place": _place(), "pid": os.getpid(), "started": _started(os.getpid())})


def _is_gone(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended; of another machine's nothing is known."""
    try:
        told = json.loads(owner)
        return bool(told["place"] == _place() and told["started"] != _started(int(told["pid"])))
    except (ValueError, KeyError, TypeError):
        return False


def _place() -> str:
    """Where process ids have one meaning: this machine since it started, and in it this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # a system without these: every process is then a place of its own
        return uuid.uuid4().hex


def _started(pid: int) -> str:
    """When a process began, "" if there is none of this number, or only what its parent has not yet buried."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
