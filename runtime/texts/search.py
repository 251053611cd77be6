"""Beam search over what a decoder says of the next token, in numpy; one beam is greedy.

B sources, K beams, V vocabulary. A text's score is the sum of its log-probabilities over (its tokens)^penalty.
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
        log_probs_RV = _allowed(rows.step(fed_R), texts, target, stop, length, longest)
        total_BC = (scores_BK.reshape(-1, 1) + log_probs_RV).reshape(len(sources), -1)
        wanted = min(2 * beams, total_BC.shape[1])
        top_BC = np.argpartition(-total_BC, wanted - 1, axis=1)[:, :wanted]
        kept: list[tuple[_Source, list[int], list[int], list[float]]] = []
        for at, source in enumerate(sources):
            order = sorted(top_BC[at].tolist(), key=lambda one: (-total_BC[at, one], one))
            origins, tokens, sums = _continued(source, order, total_BC[at], at, texts, stop, beams, target, length)
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
        if chosen != list(range(len(log_probs_RV))):
            rows = rows.select(chosen)
    return finished


def _continued(
    source: _Source,
    order: list[int],
    total_C: np.ndarray,
    at: int,
    texts: list[list[int]],
    stop: Sequence[int],
    beams: int,
    target: TargetText,
    length: int,
) -> tuple[list[int], list[int], list[float]]:
    """The beams that go on: the rows that they come from, their tokens and their sums. Those that end are put into
    `source.done`."""
    vocabulary = len(total_C) // beams
    origins: list[int] = []
    tokens: list[int] = []
    sums: list[float] = []
    for rank, one in enumerate(order):
        row, token, value = at * beams + one // vocabulary, one % vocabulary, float(total_C[one])
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


def _allowed(
    logits_RV: np.ndarray, texts: list[list[int]], target: TargetText, stop: Sequence[int], length: int, longest: int
) -> np.ndarray:
    """Log-probabilities (R,V) with what must not come at -inf: banned tokens, n-grams that were written before, and all
    but what is forced at the beginning and at the end."""
    import numpy as np

    shifted_RV = logits_RV.astype(np.float32)
    shifted_RV -= shifted_RV.max(axis=1, keepdims=True)
    log_probs_RV = shifted_RV - np.log(np.exp(shifted_RV).sum(axis=1, keepdims=True))
    log_probs_RV[:, list(target.banned)] = -np.inf
    size = target.no_repeat
    for row, text in enumerate(texts if size else ()):
        tail = text[len(text) - size + 1 :] if size > 1 else []
        for begin in range(len(text) - size + 1):
            if text[begin : begin + size - 1] == tail:
                log_probs_RV[row, text[begin + size - 1]] = -np.inf
    only = target.forced[length - 1 : length] or (tuple(stop[:1]) if length == longest else ())
    if only:
        forced_RV = np.full_like(log_probs_RV, -np.inf)
        forced_RV[:, only] = 0.0
        return forced_RV
    return log_probs_RV
