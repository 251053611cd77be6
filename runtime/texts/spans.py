"""Answers that are a part of a text: the windows that a model sees a long text through, and the likeliest part of it.

N tokens of a window, L of them of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

#: Tokens of an answer at most, and how many answers are kept (Devlin et al. 2019 and the scripts that follow it).
LONGEST, KEPT = 30, 20
NOWHERE = (-1, -1)


class Window(NamedTuple):
    """A question with a part of the text: token ids, and from where to where in the text each of them stands (`NOWHERE`
    for what is not in it)."""

    ids: list[int]
    places: list[tuple[int, int]]


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text; `score`: the sum of the two logits."""

    start: int
    end: int
    score: float


def without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a text without the spaces around it, which some tokens take in."""
    part = text[start:end]
    return end - len(part.lstrip()), start + len(part.rstrip())


def best_spans(
    windows: Sequence[Window], starts: Sequence[np.ndarray], ends: Sequence[np.ndarray]
) -> tuple[list[Span], float]:
    """The likeliest answers, best first, and the score of there being none: that of the first token, in the window
    where it is least. `starts` and `ends`: the logits [N] of each window, without padding."""
    best: dict[tuple[int, int], float] = {}
    nothing = float("inf")
    for window, start_N, end_N in zip(windows, starts, ends, strict=True):
        nothing = min(nothing, float(start_N[0]) + float(end_N[0]))
        for span in _of_window(window, start_N, end_N):
            place = (span.start, span.end)
            best[place] = max(best.get(place, span.score), span.score)
    found = sorted(((-score, *place) for place, score in best.items()))[:KEPT]
    return [Span(start, end, -score) for score, start, end in found], nothing


def _of_window(window: Window, start_N: np.ndarray, end_N: np.ndarray) -> list[Span]:
    import numpy as np

    inside = [at for at, (start, end) in enumerate(window.places) if end > start >= 0]
    start_L, end_L = start_N[inside].astype(np.float64), end_N[inside].astype(np.float64)
    count = len(inside)
    score = np.full((min(LONGEST, count), count), -np.inf)
    for more, row in enumerate(score):
        row[: count - more] = start_L[: count - more] + end_L[more:]
    found = []
    for flat in np.argsort(-score, axis=None, kind="stable")[:KEPT]:
        more, first = divmod(int(flat), count)
        if np.isfinite(score[more, first]):
            span = window.places[inside[first]][0], window.places[inside[first + more]][1]
            found.append(Span(*span, float(score[more, first])))
    return found


def probabilities(scores: Sequence[float]) -> list[float]:
    """Of each of these answers, if it is one of them."""
    import numpy as np

    likely = np.exp(np.array(scores, np.float64) - max(scores))
    return [float(one) for one in likely / likely.sum()]
