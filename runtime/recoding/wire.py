"""Protocol buffers, as far as an ONNX file needs them: fields in, fields out. A device has no package for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: a whole number, or its bytes."""

    number: int
    kind: int
    value: int | bytes | memoryview

    @property
    def view(self) -> memoryview:
        """The bytes of a text, message or array. Raises ValueError for a number."""
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number")
        return memoryview(self.value)

    @property
    def text(self) -> str:
        """A text."""
        return str(self.view, "utf-8")

    @property
    def integer(self) -> int:
        """A number. Raises ValueError for bytes."""
        if not isinstance(self.value, int):
            raise ValueError(f"field {self.number} is not a number")
        return self.value


def number(place: int, value: int) -> Field:
    """A field that holds a number."""
    return Field(place, _VARINT, value)


def message(place: int, value: bytes | memoryview) -> Field:
    """A field that holds bytes."""
    return Field(place, _BYTES, value)


def fields(data: bytes | memoryview) -> Iterator[Field]:
    """The fields of a message, in order. Raises ValueError where it is damaged."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield Field(key >> 3, kind, value)
            continue
        if kind == _BYTES:
            size, at = _varint(view, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"no protocol buffer has fields of kind {kind}")
        if at + size > len(view):
            raise ValueError("the message is cut")
        yield Field(key >> 3, kind, view[at : at + size])
        at += size


def packed(data: memoryview) -> Iterator[int]:
    """The numbers of an array of numbers."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def written(parts: Iterable[Field]) -> bytes:
    """A message of these fields."""
    chunks: list[bytes | memoryview] = []
    for part in parts:
        chunks.append(_number(part.number << 3 | part.kind))
        if isinstance(part.value, int):
            chunks.append(_number(part.value))
            continue
        if part.kind == _BYTES:
            chunks.append(_number(len(part.value)))
        chunks.append(part.value)
    return b"".join(chunks)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise ValueError("the message is cut")
        byte = view[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))
