"""Bundles side by side in a folder, one of which is current.

    STORE/bundles/<id>/       whole bundles; the id is the beginning of the SHA-256 of the manifest
    STORE/current             a link to one of them: what `runtime.run STORE/current` opens
    STORE/history.json        ids in the order of their deployment

A bundle comes in under a hidden name and gets its own once it is whole and on the disk; the link is replaced by a
rename. So `current` leads to a whole bundle at every moment. The history is written before the link: where it has more
than the link knows, the deployment of the rest did not come about.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.bundles.bundle import Bundle, open_files
from runtime.bundles.manifest import NAME
from runtime.bundles.seal import SEAL, SIGNATURE
from runtime.files import explain, parse_json, sync, write_atomic
from targets.errors import EnvironmentLacks, InputError

BUNDLES, CURRENT, HISTORY = "bundles", "current", "history.json"
_ID = re.compile("[0-9a-f]{16}")
_PASSING = ".new-", ".old-", ".current-"  # how the names of what is on its way begin


@dataclass(frozen=True)
class Store:
    """A store at `root`; `locked` gives one that may be changed."""

    root: Path

    def current(self) -> str | None:
        """The id of the current bundle, None in a new store. Raises InputError where the link is none of ours."""
        link = self.root / CURRENT
        if not link.is_symlink():
            if link.exists():
                raise InputError(f"{link} is not a link, so {self.root} is not a store; name another folder")
            return None
        name = link.readlink().name
        if link.readlink() != Path(BUNDLES, name) or not _ID.fullmatch(name):
            raise InputError(
                f"{link} leads to {link.readlink()}, which is not a bundle of this store; name another folder"
            )
        return name

    def history(self) -> list[str]:
        """Ids up to the current one, in the order of their deployment. Raises InputError for a damaged file."""
        now, path = self.current(), self.root / HISTORY
        if now is None:
            return []
        try:
            ids = parse_json(path.read_bytes())
        except FileNotFoundError:
            return [now]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove it, rollback is then not possible") from error
        if not isinstance(ids, list) or not all(isinstance(one, str) and _ID.fullmatch(one) for one in ids):
            raise InputError(f"{path}: holds something else than ids; remove it, rollback is then not possible")
        return ids[: ids.index(now) + 1] if now in ids else [now]

    def path(self, name: str) -> Path:
        """The folder of a bundle."""
        return self.root / BUNDLES / name

    def take(self, bundle: Bundle) -> str:
        """Bring a verified bundle into the store and return its id; what is there whole stays as it is.

        Raises InputError or EnvironmentLacks where it cannot be written, and leaves nothing behind.
        """
        name = hashlib.sha256((bundle.root / NAME).read_bytes()).hexdigest()[:16]
        if self._whole(name):
            return name
        needed = sum(digest.bytes for digest in bundle.manifest.files.values())
        if needed > shutil.disk_usage(self.root).free:
            raise EnvironmentLacks(f"{bundle.source} takes {needed} bytes, {self.root} has less; free some space")
        coming = Path(tempfile.mkdtemp(prefix=_PASSING[0], dir=self.root / BUNDLES))
        try:
            listed = [path for path in (NAME, SEAL, SIGNATURE) if (bundle.root / path).is_file()]
            for path in (*listed, *bundle.manifest.files):
                _copy(bundle.root / path, coming / path)
            for folder in sorted({path.parent for path in coming.rglob("*")}, reverse=True):
                sync(folder)
            open_files(coming)  # what was copied, not what was to be
            if self.path(name).exists():  # a damaged one under that name
                self.path(name).rename(_aside(self.path(name)))
            coming.chmod(0o755)
            coming.rename(self.path(name))
            sync(self.root / BUNDLES)
        except OSError as error:
            raise explain(error, self.path(name)) from error
        finally:
            shutil.rmtree(coming, ignore_errors=True)
        return name

    def switch(self, name: str, history: list[str]) -> None:
        """Make a bundle the current one, `history` what led to it. Either both hold or nothing has changed."""
        write_atomic(self.root / HISTORY, json.dumps(history).encode() + b"\n")
        temporary = self.root / f"{_PASSING[2]}{os.getpid()}"
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(Path(BUNDLES, name))
            temporary.replace(self.root / CURRENT)
            sync(self.root)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise explain(error, self.root / CURRENT) from error

    def clean(self, keep: set[str]) -> None:
        """Remove bundles other than those to keep, and what an interrupted deployment left."""
        for path in [*self.root.iterdir(), *(self.root / BUNDLES).iterdir()]:
            ours = path.parent.name == BUNDLES and _ID.fullmatch(path.name) and path.name not in keep
            if path.name.startswith(_PASSING) and path.is_symlink():
                path.unlink(missing_ok=True)
            elif path.name.startswith(_PASSING):
                shutil.rmtree(path, ignore_errors=True)
            elif ours:  # out of sight first: a half of a bundle must not stand under its name
                path = path.rename(_aside(path))
                shutil.rmtree(path, ignore_errors=True)

    def _whole(self, name: str) -> bool:
        try:
            open_files(self.path(name))
        except InputError:
            return False
        return True


@contextmanager
def locked(root: Path) -> Iterator[Store]:
    """The store, made if it is not there, for one process at a time. Raises InputError for no store, or while
    another process changes it."""
    import fcntl

    store = Store(root)
    try:
        strange = root.is_dir() and not (root / BUNDLES).is_dir() and any(root.iterdir())
        if strange:
            raise InputError(f"{root} holds other files and no bundles, so it is not a store; name a new folder")
        (root / BUNDLES).mkdir(parents=True, exist_ok=True)
        stream = (root / ".lock").open("ab")
    except OSError as error:
        raise explain(error, root) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process deploys to {root}; wait for it") from error
        yield store


def deploy(
    store: Store, bundle: Bundle, check: Callable[[Bundle], None], others: int, public_key: Path | None = None
) -> str:
    """Make a verified bundle the current one, once `check` has not raised for the copy in the store, which the key, if
    any, has signed; its id. Keeps that many before it. Raises what `check`, `take` and `open_files` raise, with the
    current bundle as it was."""
    before = store.history()
    name = store.take(bundle)
    try:
        check(open_files(store.path(name), public_key))
    except BaseException:
        if name not in before:
            store.clean({*before})
        raise
    history = [*(one for one in before if one != name), name][-(others + 1) :]
    store.switch(name, history)
    store.clean({*history})
    return name


def rollback(store: Store, check: Callable[[Bundle], None], public_key: Path | None = None) -> str:
    """Make the bundle before the current one current again; its id. Raises InputError where there is none, it is
    damaged or the key's owner did not sign it, and what `check` raises."""
    history = store.history()
    if len(history) < 2:
        raise InputError(f"{store.root} has no bundle before the current one; deploy another")
    check(open_files(store.path(history[-2]), public_key))
    store.switch(history[-2], history[:-1])
    return history[-2]


def _copy(source: Path, target: Path) -> None:
    """Copy a file onto the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, target.open("xb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())


def _aside(path: Path) -> Path:
    return path.with_name(f"{_PASSING[1]}{path.name}-{os.getpid()}")
