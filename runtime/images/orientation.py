"""Which way up a picture is: its orientation by EXIF or XMP, and the turn that makes it upright.

Reference: Exif 2.32 (CIPA DC-008), section 4.6.4, tag Orientation; TIFF 6.0, section 2 (its directories).
Shape suffixes: H height, W width, C channels.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_TAG = 0x0112
_ENTRY, _INSIDE = 12, 4  # bytes of a tag, and of a value that is in it and not behind all tags
#: Types of numbers: EXIF asks for 3 (SHORT), and writers use every other; two parts are a fraction.
_NUMBERS = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q"}
_NO_NUMBERS = (1, 2, 7)


def orientation_in(exif: bytes | None, xmp: bytes | None = None) -> int:
    """1 (upright) to 8; 1 where nothing is said. EXIF goes before XMP; what is damaged says nothing."""
    found = _in_exif(exif) if exif else None
    if found is None and xmp:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else None
    return int(found) if found is not None and found in range(1, 9) else 1


def upright(image_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """The picture turned and mirrored as its orientation asks."""
    import numpy as np

    if orientation == 1:
        return image_HWC
    if orientation >= 5:
        image_HWC = image_HWC.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image_HWC[::rows, ::columns])


def _in_exif(exif: bytes) -> float | None:
    """The tag's first value in the first directory, 0 where it is not a number; None where it is not there or the block
    is damaged before it."""
    body = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", body, 4)
        (count,) = struct.unpack_from(f"{order}H", body, at)
        for entry in range(at + 2, at + 2 + _ENTRY * count, _ENTRY):
            tag, kind, number = struct.unpack_from(f"{order}HHI", body, entry)
            if tag == _TAG and number and kind in _NO_NUMBERS:
                return 0
            if tag == _TAG and number and kind in _NUMBERS:
                return _value(body, entry + 8, order + _NUMBERS[kind], number)
    except struct.error:
        return None
    return None


def _value(body: bytes, place: int, form: str, number: int) -> float:
    """The first of a tag's values. Raises struct.error where it is not there."""
    if struct.calcsize(form) * number > _INSIDE:
        (place,) = struct.unpack_from(f"{form[0]}I", body, place)
    value, *below = struct.unpack_from(form, body, place)
    return value / below[0] if below and below[0] else value
