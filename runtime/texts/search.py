"""Beam search over what a decoder says of the next token, in numpy; one beam is greedy.

B sources, K beams, R their rows, V vocabulary, W continuations that are looked at. A text's score is the sum of its
log-probabilities over (its tokens)^penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from runtime.texts.text import TargetText

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")
#: A score that no text has.
_LOW = -1e9
#: About how many tokens share a column when the best are looked for.
_DEEP = 16


class Rows(Protocol):
    """Texts that a decoder is writing side by side; `runtime.streams.stream.Stream` is one."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Feed one token each (R,); the logits of the next (R,V)."""
        ...

    def select(self: R, rows: Sequence[int]) -> R:
        """The texts of these rows, in this order; a row may come more than once."""
        ...


@dataclass(frozen=True)
class Written:
    """A text without the tokens that begin and end it, and its score."""

    ids: list[int]
    score: float


@dataclass
class _Source:
    """A source whose texts are not all done. `done`: the best finished texts, best first."""

    place: int
    done: list[Written] = field(default_factory=list)


def search(
    rows: Rows, count: int, target: TargetText, stop: Sequence[int], beams: int, longest: int, best: int = 1
) -> list[list[Written]]:
    """The `best` texts of each of `count` sources, best first. `rows` has a row for each, nothing fed yet. A text ends
    with a token of `stop`, or is `longest` tokens long with the one that ends it.

    Which texts are kept, and when a source is done, is as in transformers' `generate`: a beam that ends counts if it is
    among the K best of all continuations; without `early` a source is done when no open beam can beat the worst of K
    finished texts.
    """
    import numpy as np

    sources = [_Source(place) for place in range(count)]
    finished: list[list[Written]] = [[] for _ in range(count)]
    rows = rows.select(np.repeat(np.arange(count), beams).tolist()) if beams > 1 else rows
    fed_R = np.full(count * beams, target.start, np.int64)
    texts: list[list[int]] = [[] for _ in fed_R]
    scores_BK = np.full((count, beams), _LOW)
    scores_BK[:, 0] = 0.0
    for length in range(1, longest + 1):
        logits_RV, total_R = _allowed(rows.step(fed_R), texts, target, stop, length, longest)
        vocabulary = logits_RV.shape[1]
        values_BW, places_BW = best_of(logits_RV, scores_BK - total_R.reshape(scores_BK.shape), 2 * beams)
        kept: list[tuple[_Source, list[int], list[int], list[float]]] = []
        for at, source in enumerate(sources):
            ranked = sorted(zip((-values_BW[at]).tolist(), places_BW[at].tolist(), strict=True))
            ahead = [(at * beams + one // vocabulary, one % vocabulary, -value) for value, one in ranked]
            origins, tokens, sums = _continued(source, ahead, texts, stop, beams, target, length)
            if _is_done(source, sums, beams, target, length) or length == longest:
                left = [
                    Written([*texts[row], token], value / length**target.length_penalty)
                    for row, token, value in zip(origins, tokens, sums, strict=True)
                ]
                finished[source.place] = _ranked([*source.done, *(left if len(source.done) < beams else [])])[:best]
            else:
                kept.append((source, origins, tokens, sums))
        if not kept:
            break
        sources = [one for one, *_ in kept]
        chosen = [row for _, origins, _, _ in kept for row in origins]
        fed_R = np.array([token for _, _, tokens, _ in kept for token in tokens], np.int64)
        texts = [[*texts[row], int(token)] for row, token in zip(chosen, fed_R.tolist(), strict=True)]
        scores_BK = np.array([sums for *_, sums in kept])
        if chosen != list(range(len(logits_RV))):
            rows = rows.select(chosen)
    return finished


def _continued(
    source: _Source,
    ahead: Sequence[tuple[int, int, float]],
    texts: list[list[int]],
    stop: Sequence[int],
    beams: int,
    target: TargetText,
    length: int,
) -> tuple[list[int], list[int], list[float]]:
    """The beams that go on: the rows that they come from, their tokens and their sums, of those `ahead`, best first.
    Those that end are put into `source.done`."""
    origins: list[int] = []
    tokens: list[int] = []
    sums: list[float] = []
    for rank, (row, token, value) in enumerate(ahead):
        if token in stop:
            if rank < beams and value > _LOW / 2:
                source.done.append(Written(texts[row], value / length**target.length_penalty))
            continue
        origins.append(row)
        tokens.append(token)
        sums.append(value)
        if len(origins) == beams:
            break
    source.done = _ranked(source.done)[:beams]
    return origins, tokens, sums


def _is_done(source: _Source, sums: list[float], beams: int, target: TargetText, length: int) -> bool:
    if len(source.done) < beams:
        return False
    return target.early or beams == 1 or max(sums) / length**target.length_penalty <= source.done[-1].score


def _ranked(texts: list[Written]) -> list[Written]:
    return sorted(texts, key=lambda one: -one.score)


def best_of(logits_RV: np.ndarray, start_BK: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best continuations of each source, in no order: start + logits (B,W), and where each is among those
    of its beams one after the other.

    Sorted out by columns of a few tokens: the best are in the columns whose best are the best.
    """
    import numpy as np

    (sources, beams), (_, vocabulary) = start_BK.shape, logits_RV.shape
    columns = max(1, vocabulary // _DEEP)
    whole = logits_RV[:, : columns * (vocabulary // columns)].reshape(len(logits_RV), -1, columns)
    top_RC = whole.max(axis=1)
    rest_RX = logits_RV[:, whole.shape[1] * columns :]
    np.maximum(top_RC[:, : rest_RX.shape[1]], rest_RX, out=top_RC[:, : rest_RX.shape[1]])
    top_BC = (start_BK.reshape(-1, 1) + top_RC).reshape(sources, -1)
    some_BC = _largest(top_BC, count)
    row_BC, column_BC = some_BC // columns + beams * np.arange(sources)[:, None], some_BC % columns
    token_BCY = column_BC[..., None] + columns * np.arange(-(-vocabulary // columns))
    value_BCY = (
        start_BK.reshape(-1)[row_BC][..., None] + logits_RV[row_BC[..., None], np.minimum(token_BCY, vocabulary - 1)]
    )
    value_BCY[token_BCY >= vocabulary] = -np.inf
    place_BCY = (some_BC // columns)[..., None] * vocabulary + token_BCY
    value_BX, place_BX = (array.reshape(sources, -1) for array in (value_BCY, place_BCY))
    chosen_BW = _largest(value_BX, count)
    return np.take_along_axis(value_BX, chosen_BW, axis=1), np.take_along_axis(place_BX, chosen_BW, axis=1)


def _largest(values_BX: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest of each row are (B,W), in no order."""
    import numpy as np

    count = min(count, values_BX.shape[1])
    return np.argpartition(-values_BX, count - 1, axis=1)[:, :count]


def _allowed(
    logits_RV: np.ndarray, texts: list[list[int]], target: TargetText, stop: Sequence[int], length: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (R,V) with what must not come at -inf, and what they are above log-probabilities (R,). Not to come are
    banned tokens, n-grams that were written before, and all but what is forced at the beginning and at the end."""
    import numpy as np

    only = target.forced[length - 1 : length] or (tuple(stop[:1]) if length == longest else ())
    if only:
        forced_RV = np.full(logits_RV.shape, -np.inf, np.float32)
        forced_RV[:, only] = 0.0
        return forced_RV, np.zeros(len(forced_RV))
    allowed_RV = np.array(logits_RV, np.float32)
    most_R = allowed_RV.max(axis=1)
    powers_RV = allowed_RV - most_R[:, None]
    np.exp(powers_RV, out=powers_RV)
    total_R = most_R.astype(np.float64) + np.log(powers_RV.sum(axis=1))
    allowed_RV[:, list(target.banned)] = -np.inf
    size = target.no_repeat
    for row, text in enumerate(texts if size else ()):
        tail = text[len(text) - size + 1 :] if size > 1 else []
        for begin in range(len(text) - size + 1):
            if text[begin : begin + size - 1] == tail:
                allowed_RV[row, text[begin + size - 1]] = -np.inf
    return allowed_RV, total_R
