"""What the standard library and numpy raise for damaged archives and arrays, told in one line."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from targets.errors import InputError

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


def _cause(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= 100 else f"{line[:96]} ..."
