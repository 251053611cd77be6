"""Text from a language model: one token after the other, drawn from what the model says of the next.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np


#: Names of what says how a token is drawn (`Sampling`).
DRAW = ("temperature", "top_k", "top_p", "seed")


class Decoder(Protocol):
    """What generation needs of a model; `runtime.stream.Stream` is one."""

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Feed a prompt; the logits of the next token (1,V)."""
        ...

    def step(self, tokens: int) -> np.ndarray:
        """Feed one token; the logits of the next (1,V)."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. `temperature` divides the logits, 0 takes the likeliest; `top_k` keeps the likeliest
    that many; `top_p` the fewest that have this much probability together (Holtzman et al. 2020, arXiv 1904.09751)."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a number that is not allowed."""
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; allowed: 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top-k is {self.top_k}; allowed: 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}; allowed: above 0, at most 1")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}; allowed: 0 or more")


def next_probabilities(logits_V: np.ndarray, sampling: Sampling) -> np.ndarray:
    """What each token is drawn with (V,), float64, summing to 1."""
    import numpy as np

    logits_V = np.asarray(logits_V, np.float64)
    likeliest = np.argsort(-logits_V, kind="stable")
    if sampling.temperature == 0:
        likeliest, kept_P = likeliest[:1], np.ones(1)
    else:
        likeliest = likeliest[: sampling.top_k]
        with np.errstate(over="ignore"):  # a tiny temperature: all but the likeliest fall to 0
            powers_P = np.exp((logits_V[likeliest] - logits_V[likeliest[0]]) / sampling.temperature)
        kept_P = powers_P / powers_P.sum()
    if sampling.top_p is not None:
        before_P = kept_P.cumsum() - kept_P
        likeliest, kept_P = likeliest[before_P < sampling.top_p], kept_P[before_P < sampling.top_p]
    probabilities_V = np.zeros(len(logits_V))
    probabilities_V[likeliest] = kept_P / kept_P.sum()
    return probabilities_V


def generate(
    model: Decoder, prompt: Sequence[int], count: int, sampling: Sampling, stop: Collection[int] = ()
) -> Iterator[int]:
    """At most `count` tokens after the prompt, as they come; the same for the same seed. Ends before a token of `stop`.

    Raises InputError for an empty prompt.
    """
    import numpy as np

    if not len(prompt):
        raise InputError("the prompt is empty; give one token at least, such as the one that starts a text")
    random = np.random.default_rng(sampling.seed)
    logits_1V = model.prefill(prompt)
    for left in range(count, 0, -1):
        probabilities_V = next_probabilities(logits_1V[0], sampling)
        token = int(np.searchsorted(probabilities_V.cumsum(), random.random(), side="right"))
        token = min(token, int(probabilities_V.nonzero()[0].max()))  # where the sum ends just below 1
        if token in stop:
            return
        yield token
        if left > 1:
            logits_1V = model.step(token)
