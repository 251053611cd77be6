"""Does the candidate answer new inputs as it answers the data's? What answers from a store of known ones does not.

S samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.judging.questions import Questions, spread
from compress.verification.outcome import Status
from compress.verification.report_data import ExtraCheck
from compress.verification.samples import Samples, same
from compress.verification.statistics import paired_rate_interval

NAME = "fresh inputs"
SAMPLES = 64
#: A model that was changed may agree less on inputs like these; one that knows its answers by heart agrees nowhere.
MOST_LOST, CONFIDENCE = 0.2, 0.999


def check_fresh(
    questions: Questions, reference: Samples, candidate: Samples, indices: NDArray[np.int64], identical: bool
) -> ExtraCheck:
    """Hold the agreement on inputs that no data set holds against that on the samples that they were made of.

    `reference` and `candidate` answered the samples at `indices` of the data; `identical`: bit for bit the same; then
    they must do so here too.
    """
    places = spread(len(indices), SAMPLES)
    fresh = [questions.fresh_answers(side, indices[places]) for side in questions.sides]
    if identical and not same(*fresh):
        message = "the candidate repeats the reference bit for bit on the data, but not on inputs like them"
        return ExtraCheck(name=NAME, status=Status.ERROR, message=f"{message}: it answers from a store")
    was, now = reference.take(places).agree(candidate.take(places)), fresh[0].agree(fresh[1])
    low, _ = paired_rate_interval(int((was & ~now).sum()), int((now & ~was).sum()), len(was), CONFIDENCE)
    shares = f"{100 * was.mean():.0f} % of {len(was)} {questions.noun}, {100 * now.mean():.0f} % of new ones like them"
    if low > MOST_LOST:
        message = f"the candidate answers as the reference does in {shares}: it knows the data by heart"
        return ExtraCheck(name=NAME, status=Status.ERROR, message=message)
    return ExtraCheck(name=NAME, status=Status.PASS, message=f"same prediction as the reference in {shares}")
