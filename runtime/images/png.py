"""A PNG decoder on zlib and numpy: all colour types and bit depths, all five filters, not interlaced.

Reference: PNG specification (ISO/IEC 15948), sections 5 (chunks), 7 (samples), 9 (filtering).
Shape suffixes: H height, W width, C channels, G groups of `step` bytes in a row.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.images.orientation import orientation_in, upright
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Of an image, and of each of its sides (what JPEG allows): work and memory grow with both. Bytes of its samples.
MAX_PIXELS, MAX_SIDE, _MAX_RAW = 100_000_000, 65_535, 1 << 29
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples per pixel
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE = 3


_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP, _EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_MAX_TEXT = 1 << 20  # bytes


class Unsupported(InputError):
    """A valid PNG of a form that this decoder leaves to Pillow."""


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int

    @property
    def bits(self) -> int:
        return self.depth * _CHANNELS[self.colour]

    @property
    def row_bytes(self) -> int:
        return (self.width * self.bits + 7) // 8

    @property
    def step(self) -> int:
        """Bytes from a byte to the one that filters call its left neighbour."""
        return max(1, self.bits // 8)


@dataclass(frozen=True)
class _File:
    """What the chunks hold: `packed`, the image data in pieces, and what tells the orientation. `strange`: what is
    left to Pillow, None where all can be read here."""

    header: _Header
    palette: bytes
    packed: list[bytes]
    exif: bytes | None
    xmp: bytes | None
    strange: str | None

    @property
    def orientation(self) -> int:
        return orientation_in(self.exif, self.xmp)


def decode(data: bytes, name: str) -> np.ndarray:
    """The pixels, uint8 [H, W, 1] (grey) or [H, W, 3]. Alpha is dropped, 16-bit samples keep their high byte, and
    the picture is turned upright.

    `name` names the file in errors. Raises Unsupported for an interlaced file, InputError for a damaged one.
    """
    import numpy as np

    file = _chunks(data, name)
    if file.strange is not None:
        raise Unsupported(f"{name}: {file.strange}")
    header = file.header
    size = header.height * (1 + header.row_bytes)
    if size > _MAX_RAW:
        raise InputError(f"{name}: {size >> 20} MB of pixels, more than the {_MAX_RAW >> 20} allowed; scale it down")
    raw = _inflate(b"".join(file.packed), size, name)
    rows = np.frombuffer(raw, np.uint8).reshape(header.height, 1 + header.row_bytes)
    filters_H, bytes_HB = rows[:, 0], rows[:, 1:]
    if filters_H.max(initial=0) > 4:
        raise InputError(f"{name}: damaged PNG: filter type {int(filters_H.max())}; save it again")
    samples_HWC = _samples(_unfilter(filters_H, bytes_HB, header.step), header)
    if header.colour == _PALETTE:
        pixels_HWC = _look_up(samples_HWC, file.palette, name)
    else:
        pixels_HWC = np.ascontiguousarray(samples_HWC[:, :, : 1 if header.colour in (0, 4) else 3])
    return upright(pixels_HWC, file.orientation)


def orientation(data: bytes, name: str) -> int:
    """Which way up the picture is, 1 (upright) to 8, by whatever chunk says so, also of a file that `decode` leaves to
    Pillow. Raises InputError for a damaged one."""
    return _chunks(data, name).orientation


def _chunks(data: bytes, name: str) -> _File:
    """What the chunks hold, with every chunk's length and checksum verified."""
    if not data.startswith(SIGNATURE):
        raise InputError(f"{name}: not a PNG file")
    header: _Header | None = None
    palette, exif, xmp, packed = b"", None, None, list[bytes]()
    strange: str | None = None
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise InputError(f"{name}: damaged PNG: the file ends early")
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        if at > len(data):
            raise InputError(f"{name}: damaged PNG: the file ends early")
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, at - 4)[0]:
            raise InputError(f"{name}: damaged PNG: wrong checksum in its {kind.decode('latin-1')} chunk")
        if kind == b"IHDR":
            header = _header(body, name)
            if body[-1]:
                strange = "interlaced PNG; install pillow to read it, or save it without interlacing"
        elif kind == b"PLTE":
            palette = body
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"eXIf":
            exif = body
        elif kind in _TEXTS:
            keyword, text = _text(kind, body)
            xmp = text if keyword == _XMP else xmp
            exif = exif or (_from_hex(text) if keyword == _EXIF else None)
        elif kind != b"IEND" and not kind[0] & 0x20:
            strange = f"PNG with an unknown critical chunk {kind!r}; install pillow to read it"
        if header is None:
            raise InputError(f"{name}: damaged PNG: no header")
    assert header is not None
    return _File(header, palette, packed, exif, xmp, strange)


def _text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Keyword and text of a text chunk; no text where it is damaged."""
    keyword, _, rest = body.partition(b"\0")
    packed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
    rest = rest[1:] if kind == b"zTXt" else rest
    if kind == b"iTXt":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind language and translated keyword
    try:
        return keyword, zlib.decompressobj().decompress(rest, _MAX_TEXT) if packed else rest
    except zlib.error:
        return keyword, b""


def _from_hex(profile: bytes) -> bytes | None:
    """EXIF as ImageMagick writes it: name and length in three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile.decode("ascii").split("\n")[3:]))
    except ValueError:
        return None


def _header(body: bytes, name: str) -> _Header:
    if len(body) != 13:
        raise InputError(f"{name}: damaged PNG: header of {len(body)} bytes")
    width, height, depth, colour, compression, filtering, _ = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or not width or not height:
        raise InputError(f"{name}: damaged PNG: impossible header (colour type {colour}, depth {depth})")
    check_size(width, height, name)
    return _Header(width, height, depth, colour)


def check_size(width: int, height: int, name: str) -> None:
    """Raises InputError for an image of more pixels, in all or along a side, than are read."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"{name}: {width} x {height} pixels, more than the {MAX_PIXELS} allowed, or than {MAX_SIDE} along a side; "
            "scale it down"
        )


def _inflate(packed: bytes, size: int, name: str) -> bytes:
    """Exactly `size` bytes: never more memory than the header announces."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, size)
    except zlib.error as error:
        raise InputError(f"{name}: damaged PNG: {error}") from error
    if len(raw) != size:
        raise InputError(f"{name}: damaged PNG: {len(raw)} bytes of pixels where {size} belong")
    return raw


def _unfilter(filters_H: np.ndarray, bytes_HB: np.ndarray, step: int) -> np.ndarray:
    """Undo the row filters. Returns [H, B] like the input.

    Each byte depends on its left, upper and upper-left neighbours, so all groups with equal x + y are independent: the
    loop walks these diagonals, which in a flat array with a zero row above and a zero column left are plain slices.
    """
    import numpy as np

    height = len(bytes_HB)
    groups = bytes_HB.shape[1] // step
    framed = np.zeros((height + 1, groups + 1, step), np.uint8)
    framed[1:, 1:] = bytes_HB.reshape(height, groups, step)
    if filters_H.any():
        flat = framed.reshape(-1, step)
        for diagonal in range(height + groups - 1):
            first = max(0, diagonal - groups + 1)
            count = min(height - 1, diagonal) - first + 1
            at = (first + 1) * (groups + 1) + diagonal - first + 1
            left, up, corner = (
                flat[at - back : at - back + (count - 1) * groups + 1 : groups].astype(np.int16)
                for back in (1, groups + 1, groups + 2)
            )
            # Paeth: the neighbour nearest to left + up - corner, in the order left, up, corner.
            to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
            paeth = np.where(
                (to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)
            )
            kinds = filters_H[first : first + count, None]
            guess = np.choose(kinds, (np.zeros_like(left), left, up, (left + up) >> 1, paeth))
            flat[at : at + (count - 1) * groups + 1 : groups] += guess.astype(np.uint8)
    return framed[1:, 1:].reshape(height, -1)


def _samples(bytes_HB: np.ndarray, header: _Header) -> np.ndarray:
    """Bytes to samples, uint8 [H, W, C]: small depths are unpacked (grey ones spread to 0..255), 16 bits cut to 8."""
    import numpy as np

    channels = _CHANNELS[header.colour]
    if header.depth >= 8:
        return bytes_HB.reshape(header.height, header.width, channels, header.depth // 8)[..., 0]
    places = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
    spread = bytes_HB[:, :, None] >> places & ((1 << header.depth) - 1)
    samples = spread.reshape(header.height, -1)[:, : header.width, None]
    return samples if header.colour == _PALETTE else samples * np.uint8(255 // ((1 << header.depth) - 1))


def _look_up(index_HW1: np.ndarray, palette: bytes, name: str) -> np.ndarray:
    import numpy as np

    colours = np.frombuffer(palette, np.uint8)
    if len(colours) % 3 or int(index_HW1.max()) >= len(colours) // 3:
        raise InputError(f"{name}: damaged PNG: a pixel names a colour that its palette lacks")
    looked_up = np.empty((*index_HW1.shape[:2], 3), np.uint8)
    for row, index_W in enumerate(index_HW1[:, :, 0]):  # an index of all at once takes eight times its bytes
        looked_up[row] = colours.reshape(-1, 3)[index_W]
    return looked_up
