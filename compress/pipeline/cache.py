"""Content-addressed store of artifacts.

<root>/<kind>/<first two digits of the key>/<key>/artifact.json    what it is and what it was made from
                                                  files/           the artifact
<root>/.tmp/<kind>-<key>     an artifact while it is written; of no worth after a kill
<root>/.work/<kind>-<key>    checkpoints of an unfinished stage; kept over kills
<root>/.locks/<kind>-<key>   held by the one process that may write any of the above for this key
<root>/.leases/<kind>-<key>  the same where machines share the store; there is such a folder in no other store
<root>/*.json                memos (see `memo.py`); they only save time

Of a store that machines share, a lease may be taken over while its holder is only asleep. What holds then is rename
alone. Names in .tmp and .work end in the mark of the claim that writes there. Whoever takes over renames the
checkpoints to its own mark, so that a holder that wakes up finds its folders gone. The first that is renamed into place
is the entry; the same key means the same bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from compress.pipeline.artifact import Artifact, digest_artifact, list_files, measure_folder
from compress.pipeline.disk import sync_tree, writing
from compress.pipeline.errors import GraphError
from compress.pipeline.key import Key
from compress.pipeline.lease import Lease, leased
from compress.pipeline.lock import locked, locked_if_free
from compress.pipeline.record import Record
from runtime.files import cache_root, sha256_of, sync, write_atomic

#: Seconds after which what is left in a shared store is surely nobody's.
_OLD = 86_400.0


@dataclass(frozen=True)
class Corrupt:
    """An entry that is not what was put there."""

    path: Path
    reason: str


class Cache:
    """The store below `root`. Only what is written holds a lock; reading needs none and works on a read-only disk.

    Methods that write raise InputError if the place cannot be written, EnvironmentLacks if its disk is full.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_root()).absolute()

    @property
    def _leases(self) -> Path:
        return self.root / ".leases"

    def share(self) -> None:
        """Let machines share this store, from now on and for every process; while none uses it, if it was not shared.
        What was left behind a day ago is removed."""
        with writing(self.root):
            self._leases.mkdir(parents=True, exist_ok=True)
            for side in (".leases", ".tmp", ".work"):
                for path in self._left(side):
                    if time.time() - path.stat().st_mtime > _OLD:
                        self._drop(path)

    def get(self, key: Key, produces: type[Artifact]) -> Artifact | Corrupt | None:
        """The artifact under `key`, after hashing every one of its files; None if there is none."""
        entry = self._entry(key)
        if not entry.is_dir():
            return None
        try:
            record = Record.decode((entry / "artifact.json").read_bytes())
            reason = _fault(entry / "files", record, key, produces)
        except (OSError, ValueError, GraphError) as error:
            reason = str(error)
        if reason is not None:
            return Corrupt(entry, reason)
        return produces(entry / "files", record.digest)

    @contextmanager
    def lock(self, key: Key, on_wait: Callable[[], None]) -> Iterator[Lease | None]:
        """Be the only process that makes `key`; `on_wait` is called once if another is at it. Gives the lease of a
        store that is shared."""
        shared = self._leases.is_dir()
        path = self._side(".leases" if shared else ".locks", key)
        with ExitStack() as held:
            with writing(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                lease = held.enter_context(leased(path, on_wait) if shared else locked(path, on_wait))
            yield lease

    def begin(self, key: Key, mark: str = "") -> tuple[Path, Path]:
        """An empty folder to write the artifact into, and the work folder as it was left. Needs the lock; `mark`: of
        its lease."""
        folder, work = self._side(".tmp", key, mark) / "files", self._side(".work", key, mark)
        with writing(self.root):
            self.abandon(key, mark)
            folder.mkdir(parents=True)
            work.parent.mkdir(parents=True, exist_ok=True)
            others = f"{self._side('', key).name}@*"
            for left in sorted(work.parent.glob(others)):
                self._drop(left) if work.exists() else left.rename(work)
            for left in folder.parents[1].glob(others):
                if left != folder.parent:
                    self._drop(left)
            work.mkdir(exist_ok=True)
        return folder, work

    def put(self, key: Key, produces: type[Artifact], mark: str = "") -> Artifact:
        """Make what was written since `begin` the artifact under `key`, whole or not at all. Needs the lock.

        Raises GraphError if nothing was written, or anything but plain files.
        """
        written, entry = self._side(".tmp", key, mark), self._entry(key)
        with writing(self.root):
            files = measure_folder(written / "files")
            if not files:
                raise GraphError(f"stage {key.kind!r} wrote no files: nothing to keep")
            digest = digest_artifact(produces.__name__, files)
            record = Record(produces.__name__, digest, files, key.ingredients)
            write_atomic(written / "artifact.json", record.encode())
            sync_tree(written)
            entry.parent.mkdir(parents=True, exist_ok=True)
            if not _renamed(written, entry):
                self._drop(written)
                digest = Record.decode((entry / "artifact.json").read_bytes()).digest
            for folder in (entry.parent, entry.parent.parent, self.root):
                sync(folder)
            self._drop(self._side(".work", key, mark))
        return produces(entry / "files", digest)

    def abandon(self, key: Key, mark: str = "") -> None:
        """Remove what was written since `begin`; the work folder stays. Needs the lock."""
        self._drop(self._side(".tmp", key, mark))

    def evict(self, key: Key) -> None:
        """Remove the entry under `key`. Needs the lock."""
        with writing(self.root):
            self.abandon(key)
            doomed = self._side(".tmp", key)
            doomed.parent.mkdir(parents=True, exist_ok=True)
            self._entry(key).rename(doomed)
            self._drop(doomed)

    def sweep(self) -> None:
        """Remove what killed processes left behind and nobody can use; running ones are left alone. A shared store is
        swept when it is shared anew."""
        if not os.access(self.root, os.W_OK) or self._leases.is_dir():
            return
        with writing(self.root):
            left = {path.name for side in (".locks", ".tmp", ".work") for path in self._left(side)}
            for name in sorted(left):
                self._sweep_one(name)
            for memo in self.root.glob(".*.json.*"):  # half-written; who still writes one only loses time
                memo.unlink(missing_ok=True)

    def _sweep_one(self, name: str) -> None:
        kind, _, digest = name.rpartition("-")
        key = Key(kind, digest)
        lock = self._side(".locks", key)
        lock.parent.mkdir(exist_ok=True)
        with locked_if_free(lock) as free:
            if not free:
                return
            self.abandon(key)
            if self._entry(key).is_dir():
                self._drop(self._side(".work", key))

    def _left(self, side: str) -> list[Path]:
        folder = self.root / side
        return list(folder.iterdir()) if folder.is_dir() else []

    def _entry(self, key: Key) -> Path:
        return self.root / key.kind / key.digest[:2] / key.digest

    def _side(self, side: str, key: Key, mark: str = "") -> Path:
        return self.root / side / f"{key.kind}-{key.digest}{mark}"

    def _drop(self, folder: Path) -> None:
        if folder.exists():
            with suppress(FileNotFoundError):  # its writer may be at it, too
                shutil.rmtree(folder)


def _renamed(written: Path, entry: Path) -> bool:
    """Whether it was put there; False where another has put the same there meanwhile. Raises OSError."""
    try:
        written.rename(entry)
    except OSError:
        if not (entry / "artifact.json").exists():
            raise
        return False
    return True


def _fault(folder: Path, record: Record, key: Key, produces: type[Artifact]) -> str | None:
    """Why the entry is not what was put there, or None. Raises OSError, and GraphError for a link."""
    if Key.of(key.kind, record.ingredients) != key:
        return "it was made from other ingredients"
    if record.type != produces.__name__:
        return f"it holds a {record.type}, not a {produces.__name__}"
    found = list_files(folder)
    if found.keys() != record.files.keys():
        return f"files differ: {', '.join(sorted(found.keys() ^ record.files.keys()))}"
    for name, seal in record.files.items():
        if found[name].stat().st_size != seal.bytes or sha256_of(found[name]) != seal.sha256:
            return f"{name} was changed"
    return None
