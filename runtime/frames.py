"""Frames of a camera in, answers out: one call for those who have pixels in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.answers import Wanted, answerer_of
from runtime.answers.image_classification import ImageLabels
from runtime.images.frame import Frame
from targets.errors import EdgepressError, InputError

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.bundle import Bundle
    from runtime.images.image import Colours
    from runtime.session import Session
    from runtime.watch import Result


def answer_frames(
    session: Session, frames: Sequence[np.ndarray], *, colours: Colours, wanted: Wanted | None = None
) -> list[Result]:
    """The answer to each frame, uint8 [H, W, 3] of any sizes (or [H, W], [H, W, 1], grey, whatever `colours` says), as
    `runtime.run --json` gives it.

    `colours` is the order of the channels: OpenCV gives "bgr", most others "rgb". They run in batches as large as the
    model takes. Raises InputError for a frame that does not fit and for a bundle that does not take images, GateFailed
    if the model's output is not finite.
    """
    answerer = image_answerer(session.bundle)
    if colours not in ("rgb", "bgr"):
        raise InputError(f"colours is {colours!r}; allowed: 'rgb' or 'bgr'")
    named = [Frame(f"frame {at}", frame, colours) for at, frame in enumerate(frames)]
    results: list[Result] = []
    for start in range(0, len(named), session.max_batch):
        for result in answerer.answer(session, named[start : start + session.max_batch], wanted or Wanted()):
            if isinstance(result, EdgepressError):
                raise result
            results.append(result)
    return results


def image_answerer(bundle: Bundle) -> ImageLabels:
    """What answers frames. Raises InputError for a bundle that does not take images."""
    answerer = answerer_of(bundle)
    if not isinstance(answerer, ImageLabels):
        raise InputError(f"{bundle.source} is a bundle for {bundle.manifest.task}; frames are for those on images")
    return answerer
