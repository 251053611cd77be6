"""Open a bundle: a folder, or a zip that is unpacked once into the cache. All of it is verified before any is used."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.backends import check_runtimes
from runtime.bundles.manifest import (
    GRAPH,
    MAX_BYTES,
    NAME,
    Manifest,
    is_inside,
    manifest_bytes,
    parse_manifest,
    verify_files,
)
from runtime.bundles.seal import SEAL, SIGNATURE, check_seal, check_signature
from runtime.faults import is_plain
from runtime.files import cache_root, explain, possible, sha256_of
from targets.errors import EnvironmentLacks, GateFailed, InputError

MAX_UNPACKED = 64 << 30
_COPY = 1 << 20
_SEAL_BYTES = 1 << 10


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `source` is what the user named, `root` the folder that holds it; `whole`: the manifest of all
    graphs, where `manifest` is of one of them; `stored`: the bytes that the files were held against."""

    source: Path
    root: Path
    manifest: Manifest
    whole: Manifest | None = None
    stored: bytes = field(default=b"", repr=False)

    @property
    def packed(self) -> bool:
        """Whether the user's bundle is a zip, so `root` is only a copy in the cache."""
        return self.source.is_file()

    @property
    def graphs(self) -> dict[str, Bundle]:
        """The bundle of each graph of its model, as if there were no other."""
        every = self.whole or self.manifest
        return {name: replace(self, manifest=every.of(name), whole=every) for name in every.named}

    def one(self, graph: str | None = None) -> Bundle:
        """The bundle of one graph; without a name, of the only one, of this one where that is clear already, or of the
        whole model. Raises InputError where there is no such graph."""
        graphs = self.graphs
        if graph is None and (len(graphs) == 1 or self.whole is not None):
            return self
        graph = GRAPH if graph is None and GRAPH in graphs else graph
        if graph not in graphs:
            given = "" if graph is None else f", not {graph!r}"
            raise InputError(f"{self.source} has the graphs {', '.join(graphs)}{given}; name one of them")
        return graphs[graph]


def open_files(path: Path | str, public_key: Path | None = None) -> Bundle:
    """Verify a bundle (folder or zip) and return it; with a key, its signature too.

    Raises InputError, or EnvironmentLacks if the disk is full or a signature cannot be checked here.
    """
    source = possible(Path(path))
    if source.is_dir():  # a link may lead elsewhere before all files are read
        return _verified(source, source.resolve() if source.is_symlink() else source, public_key)
    if not source.is_file():
        raise InputError(f"no bundle at {source}")
    if not zipfile.is_zipfile(source):
        raise InputError(f"{source} is not a bundle: neither a folder nor a whole zip")
    root = cache_root() / "bundles" / sha256_of(source)
    if root.is_dir():
        with suppress(InputError):  # the copy in the cache is damaged, or the key is another: unpacking will tell
            return _verified(source, root, public_key)
    return _unpacked(source, root, public_key)


def check_passed(bundle: Bundle) -> None:
    """Raises GateFailed for a bundle that failed its accuracy gate."""
    if bundle.manifest.verdict == "fail":
        raise GateFailed(f"{bundle.source} failed its accuracy gate; --allow-failed runs it all the same")


def _verified(source: Path, root: Path, public_key: Path | None) -> Bundle:
    data = manifest_bytes(root)
    _check_manifest(data, root, source, public_key)
    manifest = parse_manifest(data, str(root / NAME))
    check_runtimes(manifest, str(root / NAME))
    verify_files(root, manifest, source)
    return Bundle(source, root, manifest, stored=data)


def _check_manifest(manifest: bytes, root: Path, source: Path, public_key: Path | None) -> None:
    """Before anything that the manifest says is believed: what a damaged one lacks is not what is wrong with it."""
    check_seal(manifest, root, source)
    if public_key is not None:
        check_signature(manifest, root, source, public_key)


def _unpacked(source: Path, root: Path, public_key: Path | None) -> Bundle:
    """Unpack what the manifest lists, and no more bytes of each file than it says, into a new folder `root`."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=root.parent))
    except OSError as error:
        raise InputError(
            f"cannot unpack into {root.parent}: {error.strerror}; unpack {source} yourself or set EDGEPRESS_CACHE"
        ) from error
    try:
        with zipfile.ZipFile(source) as archive:
            _extract(archive, source, temporary, public_key)
        bundle = _verified(source, temporary, public_key)
        try:
            temporary.rename(root)
        except OSError:
            if not root.is_dir():
                raise
            return _instead(temporary, root, source, public_key)
        return replace(bundle, root=root)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"{source}: damaged zip: {error}; copy it again") from error
    except OSError as error:
        raise explain(error, root) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _instead(fresh: Path, root: Path, source: Path, public_key: Path | None) -> Bundle:
    """What another process was faster to unpack; a damaged copy gives way to the fresh one."""
    try:
        return _verified(source, root, public_key)
    except InputError:
        shutil.rmtree(root, ignore_errors=True)  # another process may be doing the same
        fresh.rename(root)
        return _verified(source, root, public_key)


def _extract(archive: zipfile.ZipFile, source: Path, folder: Path, public_key: Path | None) -> None:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.rstrip("/")
        if not is_inside(name) or entry.filename != entry.orig_filename:
            raise InputError(
                f"{source}: holds {entry.orig_filename!r}, which leaves the bundle's folder; do not trust it"
            )
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise InputError(f"{source}: {name!r} is a symbolic link; pack the file itself")
        if not is_plain(entry):
            raise InputError(f"{source}: {name!r} is compressed by an unusual method; pack it again with deflate")
        if name in entries:
            raise InputError(f"{source}: holds {name!r} twice; pack it again")
        entries[name] = entry
    at = [name for name in entries if name == NAME or (name.count("/") == 1 and name.endswith(f"/{NAME}"))]
    if len(at) != 1:
        raise InputError(f"{source} is not a bundle: it has {len(at)} {NAME} at its top, one belongs there")
    prefix = at[0].removesuffix(NAME)
    _copy(archive, entries[at[0]], folder / NAME, MAX_BYTES, source)
    for name in (SEAL, SIGNATURE):
        if prefix + name in entries:
            _copy(archive, entries[prefix + name], folder / name, _SEAL_BYTES, source)
    data = manifest_bytes(folder)
    _check_manifest(data, folder, source, public_key)
    manifest = parse_manifest(data, f"{source}: {NAME}")
    check_runtimes(manifest, f"{source}: {NAME}")
    total = sum(digest.bytes for digest in manifest.files.values())
    if total > MAX_UNPACKED:
        raise InputError(f"{source}: unpacks to {total} bytes, more than the {MAX_UNPACKED} allowed")
    if total > shutil.disk_usage(folder).free:
        raise EnvironmentLacks(f"{source} unpacks to {total} bytes, {folder.parent} has less; free some space")
    for name, digest in manifest.files.items():
        if prefix + name not in entries:
            raise InputError(f"{source}: {name} is missing, though {NAME} lists it; copy the bundle again")
        _copy(archive, entries[prefix + name], folder / name, digest.bytes, source)


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, limit: int, source: Path) -> None:
    """Unpack one entry, stopping at `limit` bytes whatever its header says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = limit
    with archive.open(entry) as packed, path.open("xb") as stream:
        while block := packed.read(min(_COPY, left + 1)):
            left -= len(block)
            if left < 0:
                raise InputError(f"{source}: {entry.filename} unpacks to more than the {limit} bytes that belong there")
            stream.write(block)
