"""Content digest of a user's file or folder, with a memo so that a second look at 100k images only stats them."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from compress.pipeline.digest.memo import read_memo, write_memo
from runtime.files import sha256_of
from targets.errors import InputError

# Path -> "<size> <mtime_ns> <ctime_ns> <inode> <device> <SHA-256>". While the five numbers stay, so does the content.
# One string for each file, as 100k of anything richer take longer to load than to compare.
Entries = dict[str, str]

_SETTLE_NS = 1_000_000_000  # clocks of file systems tick coarsely: a file this fresh may change with no new time


def digest_tree(path: Path, memo: Path | None = None) -> str:
    """Hex digest of a file's content, or of a folder's relative paths and contents (links are followed).

    `memo` names a file that remembers each file's digest beside its size, times and inode; it is kept up to date.
    It only saves time: a missing, damaged or unwritable memo changes nothing else.
    Raises InputError for a path that is missing, unreadable, or holds something that is neither file nor folder.
    """
    root = path.resolve()
    known: dict[str, Entries] = read_memo(memo) if memo is not None else {}
    try:
        found = dict(_scan(root))
        entries = _digest_files(root, found, known.get(str(root), {}))
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}; check the path") from error
    if memo is not None and entries != known.get(str(root)):
        write_memo(memo, {**known, str(root): _settled(entries)})
    if root.is_file():
        return _digest_in(entries[""])
    lines = [f"{name}\0{_digest_in(entries[name])}\0" for name in sorted(entries)]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def _digest_in(entry: str) -> str:
    return entry[-64:]


def _scan(root: Path) -> Iterator[tuple[str, str]]:
    """Each file's path relative to `root` ("" for root itself) with its fingerprint."""
    info = root.stat()
    if stat.S_ISDIR(info.st_mode):
        yield from _scan_folder(str(root), "", ((info.st_dev, info.st_ino),))
    else:
        yield "", _fingerprint(str(root), info)


def _scan_folder(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            info = entry.stat()
            if not stat.S_ISDIR(info.st_mode):
                yield prefix + entry.name, _fingerprint(entry.path, info)
                continue
            identity = (info.st_dev, info.st_ino)
            if identity in above:
                raise InputError(f"the link {entry.path} leads back to a folder that holds it; remove it")
            yield from _scan_folder(entry.path, f"{prefix}{entry.name}/", (*above, identity))


def _fingerprint(path: str, info: os.stat_result) -> str:
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{path} is neither a file nor a folder; remove it or name another place")
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino} {info.st_dev}"


def _digest_files(root: Path, found: Mapping[str, str], known: Entries) -> Entries:
    entries: Entries = {}
    for name, fingerprint in found.items():
        old = known.get(name, "")
        fresh = old[:-65] != fingerprint
        entries[name] = f"{fingerprint} {sha256_of(root / name if name else root)}" if fresh else old
    return entries


def _settled(entries: Entries) -> Entries:
    """The entries whose next change is sure to show in their times."""
    latest = time.time_ns() - _SETTLE_NS
    return {name: entry for name, entry in entries.items() if int(entry.split()[2]) < latest}
