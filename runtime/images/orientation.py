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

_TAG, _SHORT, _LONG = 0x0112, 3, 4
_ENTRY = 12  # bytes of a tag


def orientation_in(exif: bytes | None, xmp: bytes | None = None) -> int:
    """1 (upright) to 8; 1 where nothing is said. EXIF goes before XMP; what is damaged says nothing."""
    found = _in_exif(exif) if exif else None
    if found is None and xmp:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else None
    return found if found is not None and 1 <= found <= 8 else 1


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


def _in_exif(exif: bytes) -> int | None:
    """The tag's value in the first directory; None where it is not there or the block is damaged before it."""
    body = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(f"{order}I", body, 4)
        (count,) = struct.unpack_from(f"{order}H", body, at)
        for entry in range(at + 2, at + 2 + _ENTRY * count, _ENTRY):
            tag, kind, number = struct.unpack_from(f"{order}HHI", body, entry)
            if tag == _TAG and kind in (_SHORT, _LONG) and number == 1:
                value: int = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", body, entry + 8)[0]
                return value
    except struct.error:
        return None
    return None
