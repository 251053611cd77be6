"""Which samples a model was calibrated and healed on, kept as fingerprints of their content.

A bundle carries them, so that a later evaluation on the same samples is noticed. S samples.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.faults import told
from targets.errors import InputError

#: Name of the file, beside a model.
NAME = "healing-samples.npy"
#: Per sample, of its image or of each of its texts.
Fingerprints = Sequence[tuple[int, ...]]


def fingerprint(content: bytes) -> int:
    """The first 8 bytes of SHA-256: two of a million different samples agree with a probability of 3e-8."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


def to_bytes(fingerprints: Fingerprints) -> bytes:
    """The file's content; equal samples in any order give equal bytes."""
    stream = io.BytesIO()
    np.save(stream, np.unique(np.array([one for sample in fingerprints for one in sample], "<u8")))
    return stream.getvalue()


def read(path: Path) -> NDArray[np.uint64]:
    """The fingerprints in a file of `to_bytes`. Raises InputError for anything else."""
    with told(f"{path} cannot be read", "make the bundle again"):
        found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray) or found.dtype != np.uint64 or found.ndim != 1:
        raise InputError(f"{path} holds no fingerprints of samples; make the bundle again")
    return found


def overlap(fingerprints: Fingerprints, known: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The places of the samples of which any part is known."""
    lengths = [len(sample) for sample in fingerprints]
    flat = np.array([one for sample in fingerprints for one in sample], np.uint64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return np.unique(owners[np.isin(flat, known)])
