"""Images: paths of files or folders in, the most probable classes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runtime.answers.files import each_prepared, files_in
from runtime.images.reading import SUFFIXES
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.answers import Wanted
    from runtime.bundles.bundle import Bundle
    from runtime.images.frame import Frame
    from runtime.session import Session
    from runtime.watch import Result


@dataclass(frozen=True)
class ImageLabels:
    """Labels of image files."""

    options: ClassVar[tuple[str, ...]] = ("top",)
    suffixes: tuple[str, ...] = SUFFIXES

    def expand(self, given: Sequence[str]) -> list[str]:
        return files_in(given, "images", SUFFIXES)

    def answer(self, session: Session, inputs: Sequence[str | Frame], wanted: Wanted) -> list[Result | EdgepressError]:
        from runtime.images.classify import classify

        pixels, answers = prepared(session, inputs)
        if pixels:
            for at, guesses in zip(pixels, classify(session, list(pixels.values()), wanted.top), strict=True):
                answers[at] = {"top": [vars(guess) for guess in guesses]}
        return [answers[at] for at in range(len(inputs))]

    def line(self, result: Result) -> str:
        return label_line(result)


def prepared(
    session: Session, images: Sequence[str | Frame]
) -> tuple[dict[int, np.ndarray], dict[int, Result | EdgepressError]]:
    """Of each image the model's input, float32 [C, H, W], or why that one cannot be used."""
    from runtime.images.classify import prepare_one

    return each_prepared(images, lambda one: prepare_one(session, one))


def rows_of(
    session: Session, images: Sequence[str | Frame], result: Callable[[np.ndarray], Result]
) -> list[Result | EdgepressError]:
    """What `result` makes of the model's output for each image, or why that one cannot be used."""
    import numpy as np

    pixels, answers = prepared(session, images)
    if pixels:
        manifest = session.manifest
        output = session.run({manifest.inputs[0].name: np.stack(list(pixels.values()))})
        for at, row in zip(pixels, output[manifest.outputs[0].name], strict=True):
            answers[at] = result(row)
    return [answers[at] for at in range(len(images))]


def check_takes_images(bundle: Bundle, ids: bool) -> None:
    """Raises InputError unless the bundle takes images and says how."""
    if ids:
        raise InputError(f"--ids is for texts, {bundle.source} takes images")
    if bundle.manifest.preprocessing is None:
        raise InputError(f"{bundle.source} does not say how an image becomes its input; make the bundle again")


def label_line(result: Result) -> str:
    """'INPUT: cat 0.9012, dog 0.0544'."""
    top = result["top"]
    assert isinstance(top, list)
    return f"{result['input']}: " + ", ".join(f"{guess['label']} {guess['probability']:.4f}" for guess in top)


def open_answerer(bundle: Bundle, ids: bool) -> ImageLabels:
    """Raises InputError unless the bundle classifies images."""
    check_takes_images(bundle, ids)
    kind = (bundle.manifest.postprocessing or {}).get("kind", "softmax")
    if kind != "softmax":
        raise InputError(f"{bundle.source}: postprocessing kind {kind!r}; allowed: softmax")
    return ImageLabels()
