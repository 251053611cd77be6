"""One reader for all formats: what Pillow reads as RGB and turns upright is what comes out, with or without Pillow."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from support.runtime_toys import REPO

from runtime.images import png
from runtime.images.orientation import orientation_in
from runtime.images.reading import SUFFIXES, decode_image, read_image
from targets.errors import InputError

LOSSLESS = [
    *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
    *[("BMP", mode) for mode in ("1", "L", "P", "RGB")],
    *[("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")],
    *[("GIF", mode) for mode in ("L", "P", "RGB")],
    *[("PPM", mode) for mode in ("1", "L", "RGB")],
    *[("WEBP", mode) for mode in ("RGB", "RGBA")],
    *[("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
    *([("AVIF", mode) for mode in ("RGB", "RGBA")] if features.check("avif") else []),
]
WITH_EXIF = ["PNG", "JPEG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


def picture(mode: str = "RGB", height: int = 21, width: int = 34) -> Image.Image:
    draw = np.random.default_rng(7).integers(0, 256, (4, 5, 4), np.uint8)
    return Image.fromarray(draw).resize((width, height), Image.Resampling.BICUBIC).convert("RGB").convert(mode)


def encoded(image: Image.Image, form: str, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def in_colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


@pytest.mark.parametrize(("form", "mode"), LOSSLESS)
def test_every_format_and_mode_reads_as_pillow_reads_it(form: str, mode: str) -> None:
    data = encoded(picture(mode), form)
    np.testing.assert_array_equal(in_colour(decode_image(data, "x")), by_pillow(data))


@pytest.mark.parametrize("form", WITH_EXIF)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_orientation_is_turned_as_pillow_turns_it(form: str, mode: str) -> None:
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(mode), form, exif=exif)
        np.testing.assert_array_equal(in_colour(decode_image(data, "x")), by_pillow(data), err_msg=str(orientation))


ODD_TYPES = {
    1: "B",
    2: "B",
    3: "H",
    4: "I",
    5: "II",
    6: "b",
    7: "B",
    8: "h",
    9: "i",
    10: "ii",
    11: "f",
    12: "d",
    13: "I",
}


def exif_in_type(orientation: int, order: str, kind: int, count: int) -> bytes:
    """EXIF whose orientation is stored as a type, and as often, as no writer should."""
    form = ODD_TYPES[kind] * count
    values = [orientation, 1] * count if len(ODD_TYPES[kind]) == 2 else [orientation] * count
    packed = struct.pack(order + form, *values)
    behind = 8 + 2 + 12 + 4
    value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", behind)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, count)
    return head + value + bytes(4) + packed


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", list(ODD_TYPES))
def test_an_orientation_of_any_type_and_count_turns_as_pillow_turns_it(order: str, kind: int) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    for orientation, count in ((6, 1), (6, 2), (8, 1), (3, 3), (9, 1)):
        exif = exif_in_type(orientation, order, kind, count)
        for form, how in (("JPEG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"lossless": True, "xmp": xmp})):
            data = encoded(picture(), form, exif=b"Exif\0\0" + exif, **how)
            message = f"{form} {orientation} {count}"
            np.testing.assert_array_equal(decode_image(data, "x"), by_pillow(data), err_msg=message)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif_of(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PROFILE = b"\nexif\n      32\n" + (b"Exif\0\0" + exif_of(6)).hex().encode() + b"\n"
KINDS = {
    "eXIf": chunk(b"eXIf", exif_of(6)),
    "eXIf, other order": chunk(b"eXIf", exif_of(6, ">")),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE),
    "packed raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "packed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP)),
    "EXIF goes before XMP": chunk(b"eXIf", exif_of(3)) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "another text": chunk(b"tEXt", b'Comment\0tiff:Orientation="6"'),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_png_is_turned_by_whatever_chunk_says_it(kind: str, place: str) -> None:
    data = encoded(picture(), "PNG")
    at = data.index(b"IDAT") - 4 if place == "before" else data.index(b"IEND") - 4
    data = data[:at] + KINDS[kind] + data[at:]
    np.testing.assert_array_equal(decode_image(data, "x"), by_pillow(data))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "packed raw profile", "packed XMP"])
def test_what_turns_an_interlaced_png_may_stand_behind_its_pixels(kind: str, place: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    packed = chunk(b"IDAT", zlib.compress(adam7(pixels)))
    data = png.SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1))
    data += (KINDS[kind] + packed if place == "before" else packed + KINDS[kind]) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_image(data, "x"), np.rot90(pixels, -1))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_interlaced_pngs_are_turned_too(mode: str, interlaced: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), np.uint16)
    colour, depth = {"L": (0, 8), "RGB": (2, 8), "I;16": (0, 16)}[mode]
    wanted = (pixels if mode == "RGB" else pixels[..., :1]).astype(">u2")
    flat = wanted if depth == 16 else (wanted >> 8).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in flat) if not interlaced else adam7(flat)
    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, int(interlaced))
    data = (
        png.SIGNATURE
        + chunk(b"IHDR", header)
        + KINDS["eXIf"]
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(decode_image(data, "x"), np.rot90(wanted >> 8, -1).astype(np.uint8))


def adam7(image: np.ndarray) -> bytes:
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return b"".join(
        b"\0" + row.tobytes() for y, x, dy, dx in passes for row in np.ascontiguousarray(image[y::dy, x::dx])
    )


def wide() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (13, 17), np.uint16)


def tiff_of(samples: bytes, bits: int, kind: int, photometric: int = 1, shape: tuple[int, int] = (13, 17)) -> bytes:
    tags = [
        (256, shape[1]),
        (257, shape[0]),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 200),
        (277, 1),
        (278, shape[0]),
    ]
    tags += [(279, len(samples)), (339, kind)]
    body = (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, one) for tag, one in tags)
    )
    return (body + bytes(4)).ljust(200, b"\0") + samples


@pytest.mark.parametrize("form", ["png", "pgm", "tif", "tif, big-endian", "tif by tags", "tif, white is 0"])
def test_sixteen_bits_keep_their_high_byte(form: str) -> None:
    image = wide()
    data = {
        "png": lambda: encoded(Image.fromarray(image), "PNG"),
        "pgm": lambda: b"P5\n17 13\n65535\n" + image.astype(">u2").tobytes(),
        "tif": lambda: encoded(Image.fromarray(image), "TIFF"),
        "tif, big-endian": lambda: encoded(Image.frombytes("I;16B", (17, 13), image.astype(">u2").tobytes()), "TIFF"),
        "tif by tags": lambda: tiff_of(image.tobytes(), 16, 1),
        "tif, white is 0": lambda: tiff_of((65535 - image).tobytes(), 16, 1, photometric=0),
    }[form]()
    np.testing.assert_array_equal(decode_image(data, "x")[..., 0], image >> 8)


def test_sixteen_bits_of_colour_keep_theirs() -> None:
    image = np.random.default_rng(1).integers(0, 65536, (13, 17, 3), np.uint16)
    data = b"P6\n17 13\n65535\n" + image.astype(">u2").tobytes()
    assert abs(decode_image(data, "x").astype(int) - (image >> 8)).max() <= 1  # Pillow rounds


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encoded(Image.fromarray(wide().astype(np.float32) / 65535), "TIFF"), "floating point"),
        (encoded(Image.fromarray(wide().astype(np.int32)), "TIFF"), "signed or 32-bit"),
        (tiff_of(wide().astype(np.int16).tobytes(), 16, 2), "signed or 32-bit"),
        (tiff_of(wide().astype(np.uint32).tobytes(), 32, 1), "signed or 32-bit"),
    ],
)
def test_numbers_without_a_range_are_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=f"^x: a picture of {why} numbers"):
        decode_image(data, "x")


def planes_of_16_bits() -> bytes:
    """A TIFF of 2 x 2 pixels whose three colours lie one behind the other."""
    short, long = 3, 4
    tags = [(256, short, 1, 2), (257, short, 1, 2), (258, short, 3, 200), (259, short, 1, 1), (262, short, 1, 2)]
    tags += [(273, long, 3, 212), (277, short, 1, 3), (278, short, 1, 2), (279, long, 3, 224), (284, short, 1, 2)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    lists = struct.pack("<3H", 16, 16, 16).ljust(12, b"\0") + struct.pack("<6I", 236, 244, 252, 8, 8, 8)
    return head.ljust(200, b"\0") + lists + bytes(range(24))


def test_planes_of_16_bits_are_refused_where_pillow_reads_them_wrongly() -> None:
    with pytest.raises(InputError, match=r"^x: its colours lie in planes of 16 bits"):
        decode_image(planes_of_16_bits(), "x")


def test_a_file_that_is_no_image_is_refused_without_a_word_of_python() -> None:
    with pytest.raises(InputError, match=r"^x: not a readable image: of no form that is read here, or damaged$"):
        decode_image(b"no image", "x")


def test_bad_exif_spoils_no_picture() -> None:
    tags = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x0100, 2, 4, b"abc\0")]
    body = (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHI", *t[:3]) + t[3] for t in tags)
        + bytes(4)
    )
    for form in ("JPEG", "WEBP", "PNG"):
        data = encoded(picture(), form, exif=b"Exif\0\0" + body)
        assert decode_image(data, "x").shape == (34, 21, 3)
    draw = np.random.default_rng(0)
    good = encoded(picture(), "JPEG", exif=b"Exif\0\0" + body)
    at = good.index(b"Exif\0\0")
    for _ in range(300):
        damaged = bytearray(good)
        for place in draw.integers(at + 6, at + len(body), 3):
            damaged[place] = draw.integers(256)
        assert decode_image(bytes(damaged), "x").shape[-1] == 3


def test_any_bytes_have_an_orientation() -> None:
    draw = np.random.default_rng(0)
    for size in range(200):
        assert 1 <= orientation_in(b"II" + draw.bytes(size), draw.bytes(9)) <= 8
        cut = exif_of(6)[:size]
        assert orientation_in(cut) == (6 if size >= 20 else 1)


@pytest.mark.parametrize("form", ["JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "PNG"])
def test_whatever_a_decoder_raises_for_a_damaged_file_is_one_line_of_that_file(form: str) -> None:
    good, draw = encoded(picture(), form), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(good[: draw.integers(1, len(good) + 1)])
        for place in draw.integers(0, len(damaged), draw.integers(0, 6)):
            damaged[place] = draw.integers(256)
        try:
            assert decode_image(bytes(damaged), "x.img").dtype == np.uint8
        except InputError as error:
            assert str(error).startswith("x.img: ") and "\n" not in str(error) and len(str(error)) < 300


def test_postscript_is_no_picture_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    marker = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(script)
        with pytest.raises(InputError, match=f"{name}: not a readable image"):
            read_image(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(("width", "height"), [(100_000_000, 1), (1, 100_000_000), (70_000, 10), (20_000, 20_000)])
@pytest.mark.parametrize("depth", [1, 8])
def test_pictures_of_too_many_pixels_along_any_side_are_refused_at_once(width: int, height: int, depth: int) -> None:
    rows = zlib.compress(bytes(1 << 16))
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"x\.png: .* scale it down"):
        decode_image(data, "x.png")
    with pytest.raises(InputError, match=r"x\.pgm: .* scale it down"):
        decode_image(f"P5\n{width} {height}\n255\n".encode(), "x.pgm")
    assert time.monotonic() - began < 5


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.npy")
    found: list[str] = []

    def read() -> None:
        for name in ("a.png", "a.npy"):
            try:
                read_image(tmp_path / name)
            except InputError as error:
                found.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert len(found) == 2 and all("it is a pipe or a device" in one for one in found)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "\ud800.png", "missing.npy"])
def test_names_that_no_system_has_are_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read|not a readable"):
        read_image(tmp_path / name)


def test_without_pillow_a_png_is_turned_and_a_jpeg_is_the_environments_lack(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "a.png", exif=exif)
    picture().save(tmp_path / "a.jfif", "JPEG")
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'PIL' else find(name, *a)\n"
        "sys.modules['PIL'] = None\n"
        "from runtime.images.reading import read_image; from targets.errors import run_cli\n"
        f"print(read_image({str(tmp_path / 'a.png')!r}).shape)\n"
        f"run_cli(lambda: read_image({str(tmp_path / 'a.jfif')!r}) and 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False)
    assert done.stdout == "(34, 21, 3)\n" and done.returncode == 3 and "pip install pillow" in done.stderr


def test_the_suffixes_are_those_of_what_pillow_is_asked_for() -> None:
    Image.init()
    known = {
        suffix for suffix, form in Image.EXTENSION.items() if form in {"BMP", "DIB", "GIF", "JPEG", "TIFF", "WEBP"}
    }
    assert known | {".png", ".npy", ".pgm", ".ppm", ".pbm", ".pnm"} <= set(SUFFIXES)
