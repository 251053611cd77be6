"""Labelled recordings: WAV files in folders of their classes, or in a zip of such folders. B batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from compress.data.dataset import Decoder, LabelledDataset
from compress.data.sources import ClassFolders, Part
from compress.data.specs import check_enough, indices_of, limited
from runtime.files import check_no_pipe, user_path
from runtime.sounds.reading import SUFFIXES, Recording, decode_recording
from runtime.sounds.spectrogram import prepare
from targets.errors import InputError

_FORMS = "a folder of class folders with WAV files, or a .zip of one"


class SoundFiles(ClassFolders):
    """WAV files."""

    noun, suffixes, packings = "recordings", SUFFIXES, (".zip",)

    def decoded(self, index: int) -> Recording:
        return decode_recording(self._store.read(self.names[index]), self.names[index])


class SoundDataset(LabelledDataset[Recording]):
    """Labelled recordings. Made by `load_sounds`."""

    def prepared(self, samples: Sequence[Recording], preprocessing: Mapping[str, Any]) -> np.ndarray:
        """Recordings as float32 [B, frames, bins]."""
        return prepare(samples, preprocessing)


def load_sounds(
    spec: str,
    *,
    part: Part | Literal["all"] = "all",
    limit: int | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
) -> SoundDataset:
    """The recordings that `spec` names; see `compress.data.load`, whose parts, limit and seed these are.

    Raises InputError for a spec or data that cannot be used.
    """
    path = user_path(spec)
    if spec.startswith("zoo:") or not path.exists():
        raise InputError(f"no recordings at {spec}; give {_FORMS}")
    check_no_pipe(path)
    if not path.is_dir() and path.suffix.lower() not in SoundFiles.packings:
        raise InputError(f"{spec} is not a data set of recordings; give {_FORMS}")
    source = SoundFiles(path)
    chosen, notes = indices_of(source, part, seed)
    dataset = SoundDataset(Decoder(source), chosen, source.class_names, notes=(*source.notes, *notes))
    dataset = limited(dataset, limit, seed, skip_corrupt)
    check_enough(len(dataset), 1, source, spec, part, notes)
    return dataset
