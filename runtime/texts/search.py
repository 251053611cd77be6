"""Beam search over what a decoder says of the next token, in numpy; one beam is greedy.

B sources, K beams, R their rows, V vocabulary, C tokens of a row and W continuations of a source that are looked at. A
text's score is the sum of its log-probabilities over (its tokens)^penalty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from runtime.texts.text import TargetText

if TYPE_CHECKING:
    import numpy as np

R = TypeVar("R")
#: A score that no text has.
_LOW = -1e9
#: About how many tokens share a column when the likeliest are looked for.
_DEEP = 16


class Rows(Protocol):
    """Texts that a decoder is writing side by side; `runtime.streams.stream.Stream` is one."""

    def likeliest(self, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Feed one token each (R,); log-probabilities of the `count` likeliest next ones (R,C), best first, and these
        (R,C)."""
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

    def end(self, text: Written, beams: int) -> None:
        """One more finished text; the best `beams` stay."""
        self.done = _ranked([*self.done, text])[:beams]

    def is_done(self, top: float, beams: int, target: TargetText) -> bool:
        """Whether no open text, the best of which has the score `top`, would be kept."""
        if len(self.done) < beams:
            return False
        return target.early or beams == 1 or top <= self.done[-1].score

    def best(self, left: list[Written], beams: int) -> list[Written]:
        """The texts of a source that is over, best first. Those left open count where fewer than its beams are done."""
        return _ranked([*self.done, *(left if len(self.done) < beams else [])])


@dataclass(frozen=True)
class _Trail:
    """What was written so far: of each step the rows that the texts go on from, and their tokens (R,)."""

    steps: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def text(self, row: int) -> list[int]:
        """The text of a row of the last step."""
        ids = []
        for origin_R, token_R in reversed(self.steps):
            ids.append(int(token_R[row]))
            row = int(origin_R[row])
        return ids[::-1]


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
    fed_R, trail = np.full(count * beams, target.start, np.int64), _Trail()
    scores_BK = np.full((count, beams), _LOW)
    scores_BK[:, 0] = 0.0
    ahead = beams * (1 + max(1, len(stop)))  # of which K go on, even where every beam ends
    for length in range(1, longest + 1):
        penalty = length**target.length_penalty
        found = _allowed(rows, fed_R, trail, target, stop, length, longest, ahead)
        values_BW, origins_BW, tokens_BW = _best(scores_BK, *found, ahead)
        ends_BW = _among(tokens_BW, stop)
        for at, rank in np.argwhere(ends_BW[:, :beams] & (values_BW[:, :beams] > _LOW / 2)).tolist():
            text = trail.text(int(origins_BW[at, rank]))
            sources[at].end(Written(text, float(values_BW[at, rank]) / penalty), beams)
        values_BW[ends_BW] = -np.inf
        going_BK = np.argsort(ends_BW, axis=1, kind="stable")[:, :beams]  # the best of those that do not end
        each_B1 = np.arange(len(sources))[:, None]
        scores_BK, origins_BK, tokens_BK = (one[each_B1, going_BK] for one in (values_BW, origins_BW, tokens_BW))
        tops = (scores_BK.max(axis=1) / penalty).tolist()
        over = [length == longest or one.is_done(top, beams, target) for one, top in zip(sources, tops, strict=True)]
        for at in np.flatnonzero(over).tolist():
            open_ = zip(origins_BK[at].tolist(), tokens_BK[at].tolist(), scores_BK[at].tolist(), strict=True)
            left = [
                Written([*trail.text(row), token], value / penalty) for row, token, value in open_ if value > -np.inf
            ]
            finished[sources[at].place] = sources[at].best(left, beams)[:best]
        if all(over):
            break
        going_B = ~np.array(over)
        sources = [one for one, ends in zip(sources, over, strict=True) if not ends]
        chosen_R, fed_R, scores_BK = origins_BK[going_B].ravel(), tokens_BK[going_B].ravel(), scores_BK[going_B]
        trail.steps.append((chosen_R, fed_R))
        if not np.array_equal(chosen_R, np.arange(going_B.size * beams)):
            rows = rows.select(chosen_R.tolist())
    return finished


def greedy(rows: Rows, target: TargetText, stop: Sequence[int], longest: int) -> Iterator[int]:
    """The tokens of one text as they come: what `search` writes with one beam. `rows` has one row, nothing fed yet."""
    import numpy as np

    fed_R, trail = np.full(1, target.start, np.int64), _Trail()
    for length in range(1, longest + 1):
        values_RC, tokens_RC = _allowed(rows, fed_R, trail, target, stop, length, longest, 1)
        fed_R = tokens_RC[:, values_RC[0].argmax()]
        if int(fed_R[0]) in stop:
            return
        yield int(fed_R[0])
        trail.steps.append((np.zeros(1, np.int64), fed_R))


def _best(
    scores_BK: np.ndarray, values_RC: np.ndarray, tokens_RC: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` best continuations of each source, best first (B,W): their sums, rows and tokens. Of equal ones the
    earlier beam comes first, then the lower token."""
    import numpy as np

    sources, beams = scores_BK.shape
    sums_BX = (scores_BK.reshape(-1, 1) + values_RC).reshape(sources, -1)
    order_BW = np.argsort(-sums_BX, axis=1, kind="stable")[:, :count]
    each_B1 = np.arange(sources)[:, None]
    row_BW = order_BW // values_RC.shape[1] + beams * each_B1
    return sums_BX[each_B1, order_BW], row_BW, tokens_RC[row_BW, order_BW % values_RC.shape[1]]


def _allowed(
    rows: Rows,
    fed_R: np.ndarray,
    trail: _Trail,
    target: TargetText,
    stop: Sequence[int],
    length: int,
    longest: int,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the likeliest tokens of each row (R,C) and the tokens, `count` that may come among them.
    What must not come is at -inf: banned tokens, n-grams that were written before, and all but what is forced at the
    beginning and at the end."""
    import numpy as np

    size = target.no_repeat
    again = [_repeats(trail.text(row), size) for row in range(len(fed_R))] if size else []
    values_RC, tokens_RC = rows.likeliest(fed_R, count + len(target.banned) + max(map(len, again), default=0))
    only = target.forced[length - 1 : length] or (tuple(stop[:1]) if length == longest else ())
    if only:
        return np.zeros((len(fed_R), 1)), np.full((len(fed_R), 1), only[0])
    values_RC[_among(tokens_RC, target.banned)] = -np.inf
    for row, tokens in enumerate(again):
        values_RC[row, _among(tokens_RC[row], tokens)] = -np.inf
    return values_RC, tokens_RC


def _among(tokens: np.ndarray, some: Collection[int]) -> np.ndarray:
    """Where these few tokens are."""
    import numpy as np

    found = np.zeros(tokens.shape, bool)
    for one in some:
        found |= tokens == one
    return found


def _repeats(text: list[int], size: int) -> set[int]:
    """The tokens that would end an n-gram of this size that the text has already."""
    tail = text[len(text) - size + 1 :] if size > 1 else []
    starts = range(len(text) - size + 1)
    return {text[at + size - 1] for at in starts if text[at : at + size - 1] == tail}


def _ranked(texts: list[Written]) -> list[Written]:
    return sorted(texts, key=lambda one: -one.score)


def likeliest(logits_RV: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of the `count` likeliest tokens of each row (R,C), best first, and the tokens (R,C); of two
    that are equal the lower one comes first.

    Sorted out by columns of a few tokens: the best are in the columns whose best are the best.
    """
    import numpy as np

    rows, vocabulary = logits_RV.shape
    columns = max(1, vocabulary // _DEEP)
    whole_RV = logits_RV[:, : vocabulary - vocabulary % columns]
    top_RL = whole_RV.reshape(rows, -1, columns).max(axis=1)
    rest_RX = logits_RV[:, whole_RV.shape[1] :]
    np.maximum(top_RL[:, : rest_RX.shape[1]], rest_RX, out=top_RL[:, : rest_RX.shape[1]])
    most_R1 = top_RL.max(axis=1, keepdims=True)
    powers_RV = np.subtract(logits_RV, most_R1)
    np.exp(powers_RV, out=powers_RV)
    total_R1 = np.log(powers_RV.sum(axis=1, keepdims=True), dtype=np.float64) + most_R1
    token_RX = (_largest(top_RL, count)[..., None] + columns * np.arange(-(-vocabulary // columns))).reshape(rows, -1)
    value_RX = np.take_along_axis(logits_RV, np.minimum(token_RX, vocabulary - 1), axis=1)
    value_RX[token_RX >= vocabulary] = -np.inf
    some_RC = _largest(value_RX, min(count, vocabulary))
    value_RC, token_RC = (np.take_along_axis(one, some_RC, axis=1) for one in (value_RX, token_RX))
    order_RC = np.lexsort((token_RC, -value_RC), axis=1)
    return np.take_along_axis(value_RC, order_RC, axis=1) - total_R1, np.take_along_axis(token_RC, order_RC, axis=1)


def _largest(values_RX: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest of each row are (R,C), in no order."""
    import numpy as np

    count = min(count, values_RX.shape[1])
    return np.argpartition(-values_RX, count - 1, axis=1)[:, :count]
