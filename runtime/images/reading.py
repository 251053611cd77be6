"""Image files in, upright pixels out: one reader for training and for the device, whatever the format.

What Pillow reads as RGB, turned upright, is what comes out; samples of more than 8 bits keep their high byte.
Shape suffixes: H height, W width, C channels.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import stat
import tokenize
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.images import png
from runtime.images.orientation import orientation_in, upright
from targets.errors import EdgepressError, EnvironmentLacks, InputError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".npy", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
#: Bytes of one file.
MAX_BYTES = 1 << 29
#: What systems put beside the user's files: thumbnails of a NAS, forks of macOS, waste baskets.
_SYSTEMS = {"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "lost+found", "thumbs.db"}
_SYSTEMS |= {"desktop.ini", "system volume information", "@recently-snapshot", "@__thumb"}
#: Pillow is never asked for another: it would start Ghostscript for PostScript, whatever the file is called.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_GREY = ("1", "L", "LA", "La")
_PLANES = set("RGBACMYKLX")  # what Pillow calls a tile of one plane in 8 bits
#: Tags of TIFF.
_BITS, _COMPRESSION, _WHITE_IS_ZERO, _SAMPLES, _SAMPLE_FORMAT = 258, 259, 262, 277, 339


def is_systems(name: str) -> bool:
    """Is a file or folder of that name no one's picture: hidden, or put there by a system?"""
    return name.startswith(".") or name.casefold() in _SYSTEMS


def read_image(path: Path | str) -> np.ndarray:
    """Read one image, uint8 [H, W, C] with C = 1 (grey) or 3 (RGB); alpha is dropped.

    PNG and .npy (uint8 [H, W] or [H, W, 1|3|4]) need numpy alone; JPEG and others need Pillow.
    Raises InputError if the file is missing, damaged or of a wrong kind, EnvironmentLacks where Pillow is needed.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    return decode_image(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises InputError for what cannot be read, is not a regular file or larger than an image is."""
    try:
        _check_regular(path)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no system has
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES >> 20} MB; a single file has less")
    return data


def _check_regular(path: Path) -> None:
    """Raises InputError for a pipe or a device, which would be waited on for ever, OSError for what is not there."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{path}: cannot be read: it is {what}; give a file")


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The image in the bytes of a file other than .npy, as `read_image` gives it; `name` names the file in errors."""
    if not data.startswith(png.SIGNATURE):
        return _read_with_pillow(data, name)
    try:
        return png.decode(data, name)
    except png.Unsupported:
        if importlib.util.find_spec("PIL") is None:
            raise
        return _read_with_pillow(data, name)


def _read_npy(path: Path) -> np.ndarray:
    import numpy as np

    try:
        _check_regular(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a lying header cannot take memory
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError, tokenize.TokenError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: not a readable .npy array: {cause}") from error
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not fits or not array.size:
        shape = list(array.shape)
        raise InputError(f"{path}: {array.dtype} {shape}; allowed: uint8 [height, width] or [height, width, 1|3|4]")
    png.check_size(array.shape[1], array.shape[0], str(path))
    image = np.array(array if array.ndim == 3 else array[:, :, None])
    return image[:, :, :3] if image.shape[2] == 4 else image


def _read_with_pillow(data: bytes, name: str) -> np.ndarray:
    if importlib.util.find_spec("PIL") is None:
        raise EnvironmentLacks(f"{name}: not a PNG or .npy file; pip install pillow to read other images")
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=[one for one in _FORMATS if one in pillow.OPEN]) as picture:
            png.check_size(picture.width, picture.height, name)
            _check_planes(picture, name)
            picture.load()
            return upright(_pixels(picture, name), _turn(picture, data, name))
    except EdgepressError:
        raise
    except pillow.DecompressionBombError as error:
        raise InputError(f"{name}: more pixels than are read; scale it down") from error
    except pillow.UnidentifiedImageError as error:
        kind = _kind_of_tiff(data) or "of no form that is read here, or damaged"
        raise InputError(f"{name}: not a readable image: {kind}") from error
    except Exception as error:  # whatever its many decoders raise is this file's fault
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: not a readable image: {cause[:120]}") from error


def _kind_of_tiff(data: bytes) -> str:
    """What a TIFF that Pillow does not know holds, and what to do; "" for what is not a TIFF."""
    from PIL import TiffImagePlugin

    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        if not tags:
            return ""
        bits, samples = max(tags.get(_BITS, (1,))), int(tags.get(_SAMPLES, 1))
        form = max(tags.get(_SAMPLE_FORMAT, (1,)))
    except Exception:  # noqa: BLE001 - damaged, or no TIFF
        return ""
    numbers = {2: "signed whole numbers", 3: "floating point numbers"}.get(form, "whole numbers")
    held = f"{samples} x {numbers} of {bits} bits a pixel, colour kind {tags.get(_WHITE_IS_ZERO)}"
    return f"a TIFF of {held}, compression {tags.get(_COMPRESSION, 1)}; save it with 8 bits, grey or RGB"


def _turn(picture: Any, data: bytes, name: str) -> int:
    """The orientation of a loaded picture. Pillow could turn it too, but dies of tags that it cannot write back."""
    if picture.format == "TIFF":  # turned by loading
        return 1
    if picture.format == "PNG":  # what says it may stand behind the pixels
        return png.orientation(data, name)
    return orientation_in(picture.info.get("exif"), picture.info.get("xmp"))


def _check_planes(picture: Any, name: str) -> None:
    """Raises InputError for planes of 16 bits in a TIFF that is not packed: Pillow takes each byte for a pixel."""
    bits = getattr(picture, "tag_v2", {}).get(_BITS, (8,))
    if len(picture.tile) > 1 and max(bits) > 8 and {tile[3][0] for tile in picture.tile if tile[0] == "raw"} & _PLANES:
        raise InputError(f"{name}: its colours lie in planes of {max(bits)} bits; save it with its colours together")


@functools.cache
def _pillow() -> Any:
    """Pillow's Image, with all its formats and without its warnings: what they are about is read all the same."""
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    return Image


def _pixels(picture: Any, name: str) -> np.ndarray:
    """uint8 [H, W, 1] for grey pictures, else [H, W, 3]."""
    import numpy as np

    signed = getattr(picture, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))[0] == 2
    if picture.mode.startswith("I") or picture.mode == "F" or signed:
        return _high_bytes(picture, name)
    grey = picture.mode in _GREY
    return np.array(picture.convert("L" if grey else "RGB")).reshape(picture.height, picture.width, -1)


def _high_bytes(picture: Any, name: str) -> np.ndarray:
    """The upper 8 of up to 16 bits of a grey picture. Raises InputError for other numbers: nobody says their range."""
    import numpy as np

    tags: Any = getattr(picture, "tag_v2", {})
    bits = int(tags.get(_BITS, (16,))[0])
    whole = picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM")
    if not whole or bits > 16 or tags.get(_SAMPLE_FORMAT, (1,))[0] != 1:
        kind = "floating point" if picture.mode == "F" else "signed or 32-bit"
        raise InputError(f"{name}: a picture of {kind} numbers, whose range nobody says; save it with 8 or 16 bits")
    values_HW = np.asarray(picture).astype(np.int64)
    high_HW = (values_HW >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return (255 - high_HW if tags.get(_WHITE_IS_ZERO) == 0 else high_HW)[:, :, None]
