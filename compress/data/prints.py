"""What images look like, whatever files hold them: equal ones and nearly equal ones are found by their pixels. Of
recordings equal ones alone are found, by their samples.

Every sample is decoded once and remembered for as long as its file does not change.

S samples, T values of a thumbnail, A and B images on two sides.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.seen import fingerprint
from compress.data.sources import Source
from compress.data.stores import threads
from runtime.faults import told
from runtime.files import cache_root, write_atomic
from runtime.images.image import with_channels
from runtime.sounds.reading import Recording
from targets.errors import EnvironmentLacks, InputError

#: Edge of a thumbnail. Two images are nearly the same if their thumbnails differ by less than this part of their
#: contrast: JPEG at quality 75 moves less, and no two of 3,000 test images of MNIST or CIFAR-10 are as close.
EDGE, NEAR = 16, 0.06
#: Pairs of images that are compared at most, and at once.
MOST_PAIRS, _AT_ONCE = 4_000_000_000, 1 << 22
#: Seconds between two lines of progress, on a terminal or not.
_SILENCE = 5.0
_FORMAT = 1
_ROW = np.dtype([("stamp", "<u8"), ("content", "<u8"), ("pixels", "<u8"), ("thumb", "u1", (EDGE * EDGE,))])
_place: Path | None = None
_memory: dict[str, NDArray[np.void]] = {}


@dataclass(frozen=True)
class Prints:
    """Of each sample: 64 bits of a hash of what is stored, and of the pixels; its grey thumbnail [S, T]. A blank one is
    near to no other.

    A sample that cannot be read has the pixels of no other.
    """

    content: NDArray[np.uint64]
    pixels: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]


@contextmanager
def remembered_in(place: Path) -> Iterator[None]:
    """Keep what is remembered in this folder instead of the cache's."""
    global _place
    before, _place = _place, place
    _memory.clear()
    try:
        yield
    finally:
        _place = before
        _memory.clear()


def prints_of(source: Source, indices: NDArray[np.int64]) -> Prints:
    """Of these images of a source; those that are not remembered are read and decoded now."""
    name = _name(source.location)
    known = _recall(name)
    stamps = [source.stamp(int(index)) for index in indices]
    keys = np.array([fingerprint(stamp.encode(errors="surrogatepass")) if stamp else 0 for stamp in stamps], np.uint64)
    places = np.minimum(np.searchsorted(known["stamp"], keys), max(0, len(known) - 1))
    found = (known["stamp"][places] == keys) & (keys != 0) if len(known) else np.zeros(len(keys), bool)
    rows = np.zeros(len(keys), _ROW)
    rows[found] = known[places[found]]
    missing = np.flatnonzero(~found)
    if len(missing):
        rows[missing] = _looked_at(source, indices[missing])
        rows["stamp"] = keys
        _remember(name, known, rows[missing][keys[missing] != 0])
    return Prints(rows["content"], rows["pixels"], rows["thumb"])


def print_of(image_HWC: np.ndarray) -> int:
    """64 bits of a hash of the pixels; a grey image and the same in colour have one."""
    if image_HWC.shape[-1] == 3 and (image_HWC == image_HWC[..., :1]).all():
        image_HWC = image_HWC[..., :1]
    return fingerprint(repr(image_HWC.shape).encode() + image_HWC.tobytes())


def thumb_of(image_HWC: np.ndarray) -> NDArray[np.uint8]:
    """Grey means of a grid of areas, uint8 [T]."""
    grey_HW = with_channels(image_HWC[None], 1)[0, ..., 0]
    total: np.ndarray = grey_HW
    for axis, size in enumerate(grey_HW.shape):
        starts = np.arange(EDGE) * size // EDGE
        counts = np.maximum(np.diff(np.append(starts, size)), 1)
        total = np.add.reduceat(total, starts, axis, np.float64) / (counts[:, None] if axis == 0 else counts)
    return total.round().astype(np.uint8).ravel()


def near(wanted: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """For each of `others` [B, T] a place in `wanted` [A, T] of an image that is nearly the same, or -1; None where
    there are too many to compare."""
    return _near(wanted, others, earlier=False)


def near_earlier(thumbs: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """For each image [S, T] the place of an earlier one that is nearly the same, or -1; None where there are too many
    to compare."""
    return _near(thumbs, thumbs, earlier=True)


def _near(wanted: NDArray[np.uint8], others: NDArray[np.uint8], *, earlier: bool) -> NDArray[np.int64] | None:
    if len(wanted) * len(others) > MOST_PAIRS:
        return None
    key = hashlib.sha256(wanted.tobytes() + b"|" + others.tobytes() + bytes([earlier])).digest()
    if key not in _near_before:
        for old in [*_near_before][: -_REMEMBERED + 1]:
            del _near_before[old]
        _near_before[key] = _compared(wanted, others, earlier)
    return _near_before[key]


#: What was compared last: sets to evaluate on among themselves, and with those to heal on.
_near_before: dict[bytes, NDArray[np.int64]] = {}
_REMEMBERED = 2


def _compared(wanted: NDArray[np.uint8], others: NDArray[np.uint8], earlier: bool) -> NDArray[np.int64]:
    found = np.full(len(others), -1, np.int64)
    if not len(wanted):
        return found
    a_AT, b_BT = (side.astype(np.float32) - 128 for side in (wanted, others))
    (a_A, contrast_A), (b_B, contrast_B) = _measures(a_AT), _measures(b_BT)
    some = max(1, _AT_ONCE // len(wanted))
    for start in range(0, len(others), some):
        part = slice(start, start + some)
        apart_BA = b_B[part, None] + a_A - 2 * (b_BT[part] @ a_AT.T)  # squared
        apart_BA -= (NEAR * (contrast_B[part, None] + contrast_A)) ** 2
        if earlier:
            apart_BA[np.arange(len(wanted)) >= start + np.arange(len(apart_BA))[:, None]] = np.inf
        closest_B = apart_BA.argmin(axis=1)
        for row in np.flatnonzero(apart_BA[np.arange(len(closest_B)), closest_B] < _ROUNDING):
            at, place = int(start + row), int(closest_B[row])
            apart = np.linalg.norm(wanted[place].astype(float) - others[at])
            if apart < NEAR * float(contrast_A[place] + contrast_B[at]):
                found[at] = place
    return found


#: What float32 may lose of a squared distance: such pairs are measured again.
_ROUNDING = 16.0


def _measures(x_NT: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Squared length and contrast (length of what is left without the mean)."""
    square_N = (x_NT**2).sum(axis=1)
    contrast_N = np.linalg.norm(x_NT - x_NT.mean(axis=1, keepdims=True), axis=1)
    return square_N, contrast_N


def _looked_at(source: Source, indices: NDArray[np.int64]) -> NDArray[np.void]:
    """Rows without stamps, and a line of progress now and then."""
    rows = np.zeros(len(indices), _ROW)
    told_at = time.monotonic()
    for place, row in enumerate(threads().map(lambda index: _look(source, int(index)), indices)):
        rows[place] = row
        if time.monotonic() - told_at > _SILENCE:
            told_at = time.monotonic()
            done = 100 * place // len(indices)
            print(f"looking at the {source.noun} of {source.location}: {done} % of {len(indices):,}", file=sys.stderr)
    return rows


def _look(source: Source, index: int) -> tuple[int, int, int, NDArray[np.uint8]]:
    blank = np.zeros(EDGE * EDGE, np.uint8)
    try:
        content = source.content(index)
    except InputError:  # whoever decodes it says so
        return 0, fingerprint(source.names[index].encode(errors="surrogatepass")), index, blank
    try:
        sample = source.decoded(index)
    except InputError:
        return 0, content, content, blank
    if isinstance(sample, Recording):
        return 0, content, fingerprint(b"%d " % sample.rate + sample.samples.tobytes()), blank
    return 0, content, print_of(sample), thumb_of(sample)


def _name(location: Path) -> str:
    """The name of the file that remembers a place, for the version of the package that decodes."""
    return hashlib.sha256(
        f"{_FORMAT} {version('pillow')} {location.resolve()}".encode(errors="surrogatepass")
    ).hexdigest()


def _file(name: str) -> Path:
    return (cache_root() if _place is None else _place) / "pictures" / f"{name[:32]}.npy"


def _recall(name: str) -> NDArray[np.void]:
    if name not in _memory:
        _memory[name] = np.zeros(0, _ROW)
        with suppress(InputError), told("no such memory", ""):
            seal, _, body = _file(name).read_bytes().partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() == seal:
                rows = np.load(io.BytesIO(body), allow_pickle=False)
                _memory[name] = rows if rows.dtype == _ROW else _memory[name]
    return _memory[name]


def _remember(name: str, known: NDArray[np.void], fresh: NDArray[np.void]) -> None:
    """Add rows; old ones go where they outnumber the new ones by far, for their files have changed."""
    kept = known if len(known) <= 4 * len(fresh) + 1000 else known[:0]
    rows = np.concatenate([kept, fresh])
    rows = rows[np.unique(rows["stamp"], return_index=True)[1]]
    _memory[name] = rows
    stream = io.BytesIO()
    np.save(stream, rows)
    seal = hashlib.sha256(stream.getvalue()).hexdigest().encode()
    with suppress(InputError, EnvironmentLacks):  # a place that cannot be written costs time only
        write_atomic(_file(name), seal + b"\n" + stream.getvalue())
