"""Zip and npz with the same bytes for the same content: fixed dates and modes, sorted names, nothing compressed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_COPY = 1 << 20


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An npz that numpy.load reads without pickle."""
    import numpy as np

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(arrays[name], order="C"), allow_pickle=False)
            archive.writestr(plain_entry(f"{name}.npy"), content.getvalue())
    return stream.getvalue()


def write_zip(folder: Path, stream: IO[bytes]) -> None:
    """All files below `folder`, at their relative paths."""
    with zipfile.ZipFile(stream, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = plain_entry(path.relative_to(folder).as_posix())
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while block := source.read(_COPY):
                    target.write(block)


def plain_entry(name: str) -> zipfile.ZipInfo:
    """A file of a zip with a fixed date and mode, not compressed."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry
