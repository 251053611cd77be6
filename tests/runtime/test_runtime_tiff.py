"""TIFF has more kinds of pixels than any reader: those that are not read are refused by what they hold."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from runtime.images.reading import decode_image
from targets.errors import InputError

WIDTH, HEIGHT = 8, 6


def tiff(bits: int, samples: int, colours: int, numbers: int = 1) -> bytes:
    """An uncompressed TIFF in one strip. `colours`: its PhotometricInterpretation; `numbers`: its SampleFormat."""
    data = np.random.default_rng(0).integers(0, 256, WIDTH * HEIGHT * samples * bits // 8, np.uint8).tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: colours, 273: 8, 277: samples, 278: HEIGHT, 339: numbers}
    tags[279] = len(data)
    at, behind = 8 + len(data), 8 + len(data) + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for tag, value in sorted(tags.items()):
        values = [value] * (samples if tag in (258, 339) else 1)
        packed = struct.pack(f"<{len(values)}H", *values)
        inside = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", behind + len(lists))
        entries += struct.pack("<HHI", tag, 3, len(values)) + inside
        lists += packed if len(packed) > 4 else b""
    return b"II*\0" + struct.pack("<I", at) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + lists


@pytest.mark.parametrize(("bits", "samples", "colours"), [(8, 1, 1), (16, 1, 1), (16, 1, 0), (8, 3, 2), (16, 3, 2)])
def test_kinds_that_are_read_keep_their_high_byte(bits: int, samples: int, colours: int) -> None:
    data = tiff(bits, samples, colours)
    stored = np.frombuffer(data[8 : 8 + WIDTH * HEIGHT * samples * bits // 8], f"<u{bits // 8}")
    high = (stored >> (bits - 8)).astype(np.uint8).reshape(HEIGHT, WIDTH, samples)
    np.testing.assert_array_equal(decode_image(data, "a.tif"), 255 - high if colours == 0 else high)


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ((32, 3, 2), "3 x whole numbers of 32 bits a pixel, colour kind 2"),
        ((16, 2, 1), "2 x whole numbers of 16 bits a pixel, colour kind 1"),
        ((8, 3, 9), "3 x whole numbers of 8 bits a pixel, colour kind 9"),
        ((32, 3, 2, 3), "3 x floating point numbers of 32 bits a pixel, colour kind 2"),
        ((8, 3, 2, 2), "3 x signed whole numbers of 8 bits a pixel, colour kind 2"),
    ],
)
def test_a_kind_that_is_not_read_is_refused_by_what_it_holds(kind: tuple[int, ...], held: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_image(tiff(*kind), "a.tif")
    wanted = f"a.tif: not a readable image: a TIFF of {held}, compression 1; save it with 8 bits, grey or RGB"
    assert str(caught.value) == wanted


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_numbers_are_refused_whatever_their_size(bits: int) -> None:
    with pytest.raises(InputError, match="signed or 32-bit numbers, whose range nobody says"):
        decode_image(tiff(bits, 1, 1, 2), "a.tif")


def test_a_damaged_tiff_is_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of no form that is read here, or damaged"):
        decode_image(tiff(8, 3, 2)[:100], "a.tif")
