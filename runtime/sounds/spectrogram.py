"""Recordings in, model input out: the same code prepares them for training and on the device.

Log-mel energies as Kaldi has them, with the settings of AST (Gong et al. 2021, arXiv 2104.01778): a frame of 25 ms
every 10 ms, without dither.

Shape suffixes: B batch, T samples, N frames, W samples of a frame, F bins of frequency, K mel bins.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runtime.sounds.resample import resampled
from targets.errors import InputError
from targets.strict import read

if TYPE_CHECKING:
    import numpy as np

    from runtime.sounds.reading import Recording

KIND = "spectrogram"
RATE = 16_000
_FRAME, _STEP, _FFT = 400, 160, 512  # samples
_EMPHASIS = 0.97
_LOWEST = 20.0  # Hz
#: Of an energy, before its logarithm: what float32 has as its smallest step at 1.
_LEAST = 2.0**-23
_MOST = 1 << 24  # numbers of one input


@dataclass(frozen=True)
class SpectrogramPreprocessing:
    """How a recording becomes a model's input: brought to `rate` samples a second, log-mel energies in `bins`, cut or
    filled with zeros to `frames`, less `mean`, divided by `std`."""

    kind: Literal["spectrogram"]
    rate: int
    bins: int
    frames: int
    mean: float
    std: float

    def __post_init__(self) -> None:
        if self.rate != RATE:
            raise ValueError(f"rate is {self.rate}, allowed: {RATE}")
        if min(self.bins, self.frames) < 1 or self.bins > _FFT // 2 or self.bins * self.frames > _MOST:
            raise ValueError(
                f"bins and frames are {self.bins} and {self.frames}, allowed: 1 to {_FFT // 2} bins, {_MOST} numbers"
            )
        if not math.isfinite(self.mean) or not math.isfinite(self.std) or self.std == 0:
            raise ValueError(f"mean and std are {self.mean} and {self.std}, allowed: finite numbers, std not 0")


def parse_preprocessing(section: Mapping[str, object], where: str = "preprocessing") -> SpectrogramPreprocessing:
    """Read a manifest's `preprocessing` section. Raises InputError; an unknown key is refused, not skipped."""
    return read(SpectrogramPreprocessing, section, where)


def prepare(recordings: Sequence[Recording], preprocessing: Mapping[str, object]) -> np.ndarray:
    """Recordings to a model's input, float32 [B, frames, bins].

    `preprocessing` is the manifest's section. Raises InputError if a recording or the section does not fit.
    """
    import numpy as np

    spec = parse_preprocessing(preprocessing)
    out = np.zeros((len(recordings), spec.frames, spec.bins), np.float32)
    for place, recording in enumerate(recordings):
        samples_T = resampled(recording.samples, recording.rate, spec.rate)
        if len(samples_T) < _FRAME:
            lasts, least = (1000 * count // spec.rate for count in (len(samples_T), _FRAME))
            raise InputError(f"recording of {lasts} ms; allowed: {least} ms or more")
        energies_NK = _energies(samples_T[: _FRAME + _STEP * (spec.frames - 1)], spec.bins)
        out[place, : len(energies_NK)] = energies_NK
    return np.asarray((out - np.float32(spec.mean)) / np.float32(spec.std))


def _energies(samples_T: np.ndarray, bins: int) -> np.ndarray:
    """[N, K]: logarithms of the mel energies of every whole frame."""
    import numpy as np

    frames_NW = np.lib.stride_tricks.sliding_window_view(samples_T.astype(np.float64), _FRAME)[::_STEP]
    frames_NW = frames_NW - frames_NW.mean(axis=1, keepdims=True)
    before_NW = np.concatenate([frames_NW[:, :1], frames_NW[:, :-1]], axis=1)
    frames_NW = (frames_NW - _EMPHASIS * before_NW) * np.hanning(_FRAME)
    power_NF = np.abs(np.fft.rfft(frames_NW, _FFT, axis=1)) ** 2
    return np.log(np.maximum(power_NF @ _mel_filters(bins), _LEAST))


@functools.lru_cache(maxsize=4)
def _mel_filters(bins: int) -> np.ndarray:
    """[F, K]: triangles between points that are evenly spread over the mel scale, from 20 Hz to half the rate."""
    import numpy as np

    places_F, low, high = _mel(np.arange(_FFT // 2 + 1) * (RATE / _FFT)), _mel(_LOWEST), _mel(RATE / 2)
    corners = np.linspace(low, high, bins + 2)
    rising_FK = (places_F[:, None] - corners[:-2]) / np.diff(corners)[:-1]
    falling_FK = (corners[2:] - places_F[:, None]) / np.diff(corners)[1:]
    return np.maximum(0.0, np.minimum(rising_FK, falling_FK))


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    import numpy as np

    return np.asarray(1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0))
