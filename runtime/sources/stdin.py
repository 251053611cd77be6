"""`-`: binary PPM or PGM pictures on standard input, one behind the other, as ffmpeg and GStreamer write them:

    ffmpeg -i CAMERA -f image2pipe -c:v ppm - | ... --source -
    gst-launch-1.0 -q nvarguscamerasrc ! nvvidconv ! videoconvert ! pnmenc ! fdsink | ... --source -

Reference: the pages ppm(5) and pgm(5) of Netpbm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from runtime.images.frame import Frame
from runtime.images.png import check_size
from targets.errors import EdgepressError, InputError

_CHANNELS = {b"P6": 3, b"P5": 1}
_BLANKS = b" \t\r\n\v\f"
_MOST = 1 << 12  # bytes of a header, comments and all


@dataclass(frozen=True)
class _Pipe:
    stream: BinaryIO
    name: str = "-"

    def frames(self) -> Iterator[Frame | EdgepressError]:
        import numpy as np

        number = 0
        while (header := _header(self.stream, f"picture {number} of standard input")) is not None:
            channels, width, height = header
            name = f"picture {number}"
            data = self.stream.read(width * height * channels)
            if len(data) < width * height * channels:
                raise InputError(f"{name} of standard input ends early: {len(data)} bytes of {width} x {height} pixels")
            yield Frame(name, np.frombuffer(data, np.uint8).reshape(height, width, channels))
            number += 1


def _header(stream: BinaryIO, name: str) -> tuple[int, int, int] | None:
    """Channels, width and height; None at the end of the stream. Raises InputError for another form."""
    kind = stream.read(2)
    if not kind:
        return None
    if kind not in _CHANNELS:
        raise InputError(f"{name} begins with {kind!r}; allowed: binary PPM (P6) or PGM (P5), as ffmpeg -c:v ppm makes")
    numbers: list[int] = []
    word, left, comment = b"", _MOST, False
    while len(numbers) < 3:
        byte = stream.read(1)
        left -= 1
        if not byte or left < 0:
            raise InputError(f"{name} has no whole header; allowed: binary PPM (P6) or PGM (P5)")
        if comment or byte == b"#":
            comment = byte != b"\n"
        elif byte.isdigit() and len(word) < 9:
            word += byte
        elif byte in _BLANKS:
            numbers, word = ([*numbers, int(word)] if word else numbers), b""
        else:
            raise InputError(f"{name} has {byte!r} in its header; allowed: width, height and 255")
    width, height, most = numbers
    if not width * height:
        raise InputError(f"{name} is {width} x {height}, so it has no pixels")
    if most != 255:
        raise InputError(f"{name} has samples up to {most}; allowed: 255, one byte each")
    check_size(width, height, name)
    return _CHANNELS[kind], width, height


def open_source(given: str) -> _Pipe | None:
    """Standard input for '-'."""
    return _Pipe(sys.stdin.buffer) if given == "-" else None
