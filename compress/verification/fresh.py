"""Does the candidate answer new inputs as it answers the data's? What answers from a store of known ones does not.

B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck
from compress.verification.sides import Side, logits_of
from compress.verification.statistics import paired_rate_interval

if TYPE_CHECKING:
    from compress.data import ImageDataset

NAME = "fresh inputs"
SAMPLES = 64
#: A model that was changed may agree less on mirrored images; one that knows its answers by heart agrees nowhere.
MOST_LOST, CONFIDENCE = 0.2, 0.999


def check_fresh(
    reference: Side, candidate: Side, data: ImageDataset, preprocessing: Mapping[str, Any] | None, identical: bool
) -> ExtraCheck:
    """Hold the agreement on mirrored images, which no data set holds, against that on the images themselves.

    `identical`: on the data both sides gave the same answers bit for bit; then they must do so here too.
    """
    indices = np.unique(np.linspace(0, len(data) - 1, SAMPLES).astype(int))
    images = data.raw(indices)
    mirrored = [image[:, ::-1] for image in images]
    known = [logits_of(side, images, preprocessing) for side in (reference, candidate)]
    fresh = [logits_of(side, mirrored, preprocessing) for side in (reference, candidate)]
    if identical and not np.array_equal(fresh[0], fresh[1]):
        message = "the candidate repeats the reference bit for bit on the data, but not on mirrored images"
        return ExtraCheck(name=NAME, status=Status.ERROR, message=f"{message}: it answers from a store")
    was, now = _agree(*known), _agree(*fresh)
    low, _ = paired_rate_interval(int((was & ~now).sum()), int((now & ~was).sum()), len(was), CONFIDENCE)
    shares = f"{100 * was.mean():.0f} % on {len(was)} images, {100 * now.mean():.0f} % on the same images mirrored"
    if low > MOST_LOST:
        message = f"the candidate answers as the reference does in {shares}: it knows the data by heart"
        return ExtraCheck(name=NAME, status=Status.ERROR, message=message)
    return ExtraCheck(name=NAME, status=Status.PASS, message=f"same answer as the reference in {shares}")


def _agree(reference_BC: NDArray[np.float32], candidate_BC: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(reference_BC.argmax(axis=1) == candidate_BC.argmax(axis=1))
