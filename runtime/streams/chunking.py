"""Feed a recurrent model the same tokens in other chunks: its answers must be those to the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.streams.stream import Stream

if TYPE_CHECKING:
    import numpy as np

#: Tokens of the sequences that are fed.
LENGTHS = (1, 7, 64, 333, 1000)
#: Up to this length each token is a chunk of its own.
_SINGLY = 64
#: What rounding may change, |y - y'| / |y| over a sequence. Dynamic int8 rounds by the largest number of a chunk.
ALLOWED = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2, "int4": 5e-2}


@dataclass(frozen=True)
class Chunked:
    """How far the answers to a sequence in chunks are from those to the whole. True when that is within what is
    allowed."""

    length: int
    error: float
    allowed: float

    def __bool__(self) -> bool:
        return self.error <= self.allowed


def check_chunking(
    stream: Stream, tokens: np.ndarray, precision: str, longest: int | None = None, seed: int = 0
) -> list[Chunked]:
    """Feed the first of the tokens (N, ...), from the start again where they are too few, at every length of LENGTHS
    (at most `longest`): as whole as the model takes them, and in random chunks, short ones token by token. The stream
    stays where it is. Raises InputError or GateFailed as `Stream.outputs` does.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    lengths = sorted({min(length, longest or length) for length in LENGTHS})
    return [
        Chunked(length, _distance(stream, part, _cuts(length, random)), ALLOWED[precision])
        for length in lengths
        for part in [np.take(tokens, range(length), axis=0, mode="wrap")]
    ]


def _cuts(length: int, random: np.random.Generator) -> Sequence[int]:
    if length <= _SINGLY:
        return range(1, length)
    return sorted({int(cut) for cut in random.integers(1, length, 4)})


def _distance(stream: Stream, tokens: np.ndarray, cuts: Sequence[int]) -> float:
    import numpy as np

    fresh, parts = stream.fork(), stream.fork()
    fresh.reset()
    parts.reset()
    whole = fresh.outputs(tokens[None])
    given = np.concatenate([parts.outputs(part[None]) for part in np.split(tokens, cuts)], axis=1)
    return float(np.linalg.norm(given - whole) / max(float(np.linalg.norm(whole)), 1e-30))
