"""WAV files in, one channel of samples out: PCM of 8 to 32 bits and floating point, any rate and number of channels.

Reference: Multimedia Programming Interface and Data Specifications 1.0 (RIFF WAVE), and WAVEFORMATEXTENSIBLE.
Shape suffixes: T samples, C channels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.images.reading import read_bytes
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".wav", ".wave")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "ADPCM", 85: "MP3"}
#: Bytes of a sample by how it is coded.
_WIDTHS = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
_FORM = struct.Struct("<HHIIHH")
#: Where an extensible header says how samples are coded.
_SUBFORM = 24
#: What writers that cannot go back put for a length.
_UNKNOWN = 0xFFFFFFFF
_RATES = range(1_000, 1_000_001)


@dataclass(frozen=True)
class Recording:
    """`samples`: float32 [T], from -1 to 1 in files of whole numbers; `rate`: how many of them are a second."""

    samples: np.ndarray
    rate: int

    @property
    def nbytes(self) -> int:
        """Memory of the samples."""
        return self.samples.nbytes


@dataclass(frozen=True)
class _Form:
    coding: int
    channels: int
    rate: int
    width: int


def read_recording(path: Path | str) -> Recording:
    """Read one WAV file; several channels are averaged. Raises InputError for one that is missing, damaged or of
    another form."""
    return decode_recording(read_bytes(Path(path)), str(path))


def decode_recording(data: bytes, name: str) -> Recording:
    """The recording in the bytes of a WAV file; `name` names the file in errors. Raises InputError."""
    import numpy as np

    form, body = _parts(data, name)
    size = form.width * form.channels
    if len(body) < size:
        raise InputError(f"{name}: holds no samples; record it again")
    values = _numbers(body[: len(body) // size * size], form).reshape(-1, form.channels)
    samples = np.ascontiguousarray(values.mean(axis=1, dtype=np.float32) if form.channels > 1 else values[:, 0])
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: has samples that are NaN or infinite; save it again")
    return Recording(samples, form.rate)


def _parts(data: bytes, name: str) -> tuple[_Form, bytes]:
    """How samples are coded, and their bytes."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError(f"{name}: not a WAV file; convert it (ffmpeg -i {Path(name).name} {Path(name).stem}.wav)")
    form, at = None, 12
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        at += 8
        if kind == b"data" and form is not None:
            if length != _UNKNOWN and at + length > len(data):
                raise InputError(f"{name}: damaged WAV: {at + length - len(data)} bytes are missing; copy it again")
            return form, data[at:] if length == _UNKNOWN else data[at : at + length]
        if kind == b"fmt ":
            form = _form(data[at : at + length], name)
        at += length + length % 2
    raise InputError(f"{name}: damaged WAV: it has no {'samples' if form else 'header'}; copy it again")


def _form(header: bytes, name: str) -> _Form:
    if len(header) < _FORM.size:
        raise InputError(f"{name}: damaged WAV: its header ends early; copy it again")
    coding, channels, rate, _, size, bits = _FORM.unpack_from(header)
    if coding == _EXTENSIBLE and len(header) >= _SUBFORM + 2:
        (coding,) = struct.unpack_from("<H", header, _SUBFORM)
    if coding not in _WIDTHS:
        raise InputError(f"{name}: its samples are coded as {_NAMES.get(coding, f'form {coding}')}; save it as PCM")
    width = size // max(1, channels)
    if not channels or width * channels != size or width not in _WIDTHS[coding] or not 0 < bits <= 8 * width:
        raise InputError(f"{name}: damaged WAV: {channels} channels of {bits} bits in {size} bytes; save it again")
    if rate not in _RATES:
        raise InputError(f"{name}: {rate} samples a second; allowed: {_RATES.start} to {_RATES.stop - 1}")
    return _Form(coding, channels, rate, width)


def _numbers(body: bytes, form: _Form) -> np.ndarray:
    """float32, or float64 where that is stored."""
    import numpy as np

    if form.coding == _FLOAT:
        return np.frombuffer(body, f"<f{form.width}")
    if form.width == 1:
        return (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 128
    if form.width == 3:  # the three bytes become the upper ones of four
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        body = wide.tobytes()
    width = 4 if form.width == 3 else form.width
    return np.frombuffer(body, f"<i{width}").astype(np.float32) / np.float32(1 << (8 * width - 1))
