"""Archives and arrays that anyone may have written: their faults in one line, and no more unpacked than is allowed."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np

try:
    from lzma import LZMAError

    _LZMA: tuple[type[Exception], ...] = (LZMAError,)
except ModuleNotFoundError:  # a Python that was built without it
    _LZMA = ()

_FAULTS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RuntimeError,  # encrypted, unknown compression, too deep
    struct.error,
    zlib.error,
    *_LZMA,
    zipfile.BadZipFile,
    tokenize.TokenError,
)


@contextmanager
def told(what: str, advice: str) -> Iterator[None]:
    """Raises InputError, what is wrong and what to do, for all that a damaged file makes its reader raise."""
    try:
        yield
    except _FAULTS as error:
        raise InputError(f"{what} ({_cause(error)}); {advice}") from error


def inflated(data: bytes, most: int) -> bytes:
    """What zlib packed. Raises zlib.error for what is cut, or unpacks to more than `most` bytes."""
    stream = zlib.decompressobj()
    unpacked = stream.decompress(data, most)
    if not stream.eof:
        raise zlib.error(f"it is cut, or unpacks to more than {most} bytes")
    return unpacked


def is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is packed so that it can be unpacked piece by piece."""
    return member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_arrays(source: Path | IO[bytes], most: int) -> dict[str, np.ndarray]:
    """The arrays of an npz, by name; nothing is unpickled. To be told: raises ValueError for members that are packed in
    an unusual way or unpack to more than `most` bytes together, before any is. EnvironmentLacks where there is not as
    much memory."""
    import numpy as np

    from targets.machine import memory_bytes

    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > most or not all(map(is_plain, members)):
        raise ValueError(f"it unpacks to {size >> 20} MB, allowed: {most >> 20} MB, stored or deflated")
    free = memory_bytes(field="MemAvailable")
    if free is not None and size > free:
        raise EnvironmentLacks(f"the arrays take {size >> 20} MB of memory, {free >> 20} MB are free; give fewer")
    if not isinstance(source, Path):
        source.seek(0)
    with np.load(source, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    strange = [name for name, array in found.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise ValueError(f"{strange[0]} in it is not an array")
    return found


def _cause(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= 100 else f"{line[:96]} ..."
