"""Many small JPEG files in one `.jpegs` file, which holds what they begin with and end with once.

Small pictures are mostly header: tables of quantization and Huffman codes that an encoder writes alike into each.

    offset  bytes  what
         0      8  "jpegs 1\n"
         8      4  n, length of the index, little-endian
        12      n  the index, zlib: JSON {"names": [...], "bytes": [...], "head": h, "tail": t}
      12+n    h+t  what every file begins with, and ends with
                   then what is between, file after file, of these many `bytes` each
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, ValidationError

from compress.data.stores import stamp_of
from compress.spec import Spec
from runtime.faults import inflated
from runtime.files import check_no_pipe
from runtime.images import reading
from targets.errors import InputError

SUFFIX = ".jpegs"
_MAGIC = b"jpegs 1\n"
_LENGTH = struct.Struct("<I")
#: An index that unpacks to more is refused: two million names.
_LONGEST_INDEX = 64 << 20


class Index(Spec):
    """What is in a pack: `bytes` of each file, less the `head` and `tail` that all share."""

    names: tuple[str, ...]
    bytes: tuple[NonNegativeInt, ...]
    head: NonNegativeInt
    tail: NonNegativeInt


class PackedJpegs:
    """The files of a pack, by name."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for a file that is not a whole pack."""
        check_no_pipe(path)
        try:
            content = path.read_bytes()
            start = len(_MAGIC) + _LENGTH.size
            (length,) = _LENGTH.unpack_from(content, len(_MAGIC))
            index = Index.model_validate_json(inflated(content[start : start + length], _LONGEST_INDEX))
        except (OSError, struct.error, zlib.error, ValidationError) as error:
            raise InputError(f"{path} is not a readable pack of JPEG files; give it whole") from error
        first = start + length
        ends = list(accumulate(index.bytes, initial=first + index.head + index.tail))
        if content[: len(_MAGIC)] != _MAGIC or len(index.names) != len(index.bytes) or ends[-1] != len(content):
            raise InputError(f"{path} is not a whole pack of JPEG files; give it whole")
        self._stamp = stamp_of(path)
        self._content = content
        self._head = content[first : first + index.head]
        self._tail = content[first + index.head : ends[0]]
        self._spans = {name: slice(*span) for name, span in zip(index.names, pairwise(ends), strict=True)}

    def listing(self) -> tuple[list[str], list[str]]:
        """The names of the files, and no folders."""
        return list(self._spans), []

    def read(self, name: str) -> bytes:
        """The file as it was packed."""
        return self._head + self._content[self._spans[name]] + self._tail

    def image(self, name: str) -> np.ndarray:
        """uint8 [H, W, C]. Raises InputError if it cannot be decoded."""
        return reading.decode_image(self.read(name), name)

    def stamp(self, name: str) -> str | None:
        """Of the pack and the name in it."""
        return f"{self._stamp} {name}" if self._stamp else None


def pack(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """The content of a pack of (name, JPEG file), sorted by name: the same for the same entries. At least one."""
    names, files = zip(*sorted(entries), strict=True)
    head = _common_start(files)
    tail = _common_start([file[len(head) :][::-1] for file in files])[::-1]
    index = {
        "names": names,
        "bytes": [len(file) - len(head) - len(tail) for file in files],
        "head": len(head),
        "tail": len(tail),
    }
    packed = zlib.compress(json.dumps(index, separators=(",", ":")).encode(), 9)
    bodies = (file[len(head) : len(file) - len(tail)] for file in files)
    return b"".join((_MAGIC, _LENGTH.pack(len(packed)), packed, head, tail, *bodies))


def _common_start(files: Sequence[bytes]) -> bytes:
    """What the first and the last in order share, all between them share too."""
    first, last = min(files), max(files)
    return first[: next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]
