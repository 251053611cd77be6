"""Recordings: paths of WAV files or folders in, the most probable classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.files import each_prepared, files_in
from runtime.answers.image_classification import label_line
from runtime.sounds.reading import SUFFIXES
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class SoundLabels:
    """Labels of recordings."""

    options: ClassVar[tuple[str, ...]] = ("top",)
    suffixes: tuple[str, ...] = SUFFIXES

    def expand(self, given: Sequence[str]) -> list[str]:
        return files_in(given, "recordings", SUFFIXES)

    def answer(self, session: Session, inputs: Sequence[str], wanted: Wanted) -> list[Result | EdgepressError]:
        from runtime.images.classify import classify

        features, answers = each_prepared(inputs, lambda path: _features(session, path))
        if features:
            for at, guesses in zip(features, classify(session, list(features.values()), wanted.top), strict=True):
                answers[at] = {"top": [vars(guess) for guess in guesses]}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        return label_line(result)


def _features(session: Session, path: str) -> np.ndarray:
    """A file as the model's input, float32 [frames, bins]. Raises InputError that names it."""
    from runtime.sounds.reading import read_recording
    from runtime.sounds.spectrogram import prepare

    section = session.manifest.preprocessing
    assert section is not None
    recording = read_recording(path)
    try:
        return prepare([recording], section)[0]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def open_answerer(bundle: Bundle, ids: bool) -> SoundLabels:
    """Raises InputError unless the bundle takes recordings and says how."""
    from runtime.sounds.spectrogram import KIND

    if ids:
        raise InputError(f"--ids is for texts, {bundle.source} takes recordings")
    if (bundle.manifest.preprocessing or {}).get("kind") != KIND:
        raise InputError(f"{bundle.source} does not say how a recording becomes its input; make the bundle again")
    return SoundLabels()
