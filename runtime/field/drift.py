"""Do the inputs that a device sees now look like those that it should see?

Of every input a few numbers are taken: mean and spread of each channel of what the model is fed, the length of a text
and its share of unknown tokens, mean and spread of what the model gives, how sure it is and which class it names. A
summary holds how they were spread over a reference; a window of later
inputs is held against it, number by number, by Pearson's test that two samples have one distribution. Alarms that are
none come in at most LEVEL of the windows, as long as inputs are independent of each other (the pictures of a film are
not: take one every few seconds).

Reference: Rabanser, Günnemann, Lipton, "Failing Loudly: An Empirical Study of Methods for Detecting Dataset Shift"
(NeurIPS 2019): tests per dimension, joined by Bonferroni's correction, are what they recommend.

B inputs, C channels, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import states
from runtime.files import parse_json, write_atomic
from runtime.images.classify import softmax
from runtime.texts.text import INPUTS
from targets.errors import InputError
from targets.strict import read

if TYPE_CHECKING:
    import numpy as np

    from runtime.bundles.manifest import Tensor

#: The file of a bundle with the summary of samples that it was judged on.
FILE = "inputs.json"
#: Share of the windows without drift in which an alarm is raised, at most.
LEVEL = 0.001
#: Inputs of a reference and of a window.
LEARNED, WINDOW = 500, 200
#: It is 0 for most inputs: that it is not 0 is what counts.
UNKNOWN = "share of unknown tokens"
_IDS = INPUTS[0]
_BINS = 9
_LEAST = 5  # inputs that are to be expected in a bin, for the test's approximation to hold


@dataclass(frozen=True)
class Spread:
    """How a number is spread: `edges` between bins, and how many inputs of the reference fell into each."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError(f"{len(self.edges)} edges and counts {self.counts}, allowed: one count more than edges")
        if not all(map(math.isfinite, self.edges)) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges do not grow, allowed: finite numbers in their order")

    def p_value(self, values_B: np.ndarray) -> float:
        """How probable it is that values of the same distribution differ so much from the reference, or more."""
        import numpy as np

        seen = np.bincount(np.searchsorted(self.edges, values_B, side="right"), minlength=len(self.counts))
        both = np.stack([np.array(self.counts), seen]).astype(np.float64)
        expected = both.sum(axis=0) * both.sum(axis=1, keepdims=True) / both.sum()
        statistic = float(((both - expected) ** 2 / np.maximum(expected, 1e-12)).sum())
        return chi_square_tail(statistic, int((both.sum(axis=0) > 0).sum()) - 1)


@dataclass(frozen=True)
class Summary:
    """What the inputs of a reference look like: a spread for each number that varies. `unknown`: the token of words
    that the tokenizer does not know, where they were counted."""

    spreads: dict[str, Spread]
    unknown: int | None = None

    @classmethod
    def of(cls, numbers: Mapping[str, np.ndarray]) -> Summary:
        """Of the numbers of a reference, each (B,)."""
        spreads = {name: _whether(values) if name == UNKNOWN else _spread(values) for name, values in numbers.items()}
        return cls({name: spread for name, spread in spreads.items() if spread is not None})

    def drifted(self, numbers: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The numbers of a window, each (B,), whose spread is another now, with how probable that is by chance. Empty
        in all but LEVEL of the windows without drift."""
        tested = {name: spread.p_value(numbers[name]) for name, spread in self.spreads.items() if name in numbers}
        return {name: p for name, p in tested.items() if p < LEVEL / len(tested)}

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises as `write_atomic` does."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        write_atomic(path, json.dumps(given).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read it. Raises InputError for what is none."""
        try:
            raw = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a summary of inputs: {error}; remove it to learn anew") from error
        return read(cls, raw, str(path))


@dataclass
class Monitor:
    """Learns a summary from the first inputs, unless it is given one, and then looks at window after window."""

    summary: Summary | None = None
    learned: int = LEARNED
    window: int = WINDOW
    windows: int = field(default=0, init=False)
    alarms: int = field(default=0, init=False)
    last: dict[str, float] = field(default_factory=dict, init=False)
    _pending: dict[str, list[np.ndarray]] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def see(self, numbers: Mapping[str, np.ndarray]) -> dict[str, float] | None:
        """Take the numbers of some inputs, each (B,). At the end of a window: which of them drifted; else None."""
        import numpy as np

        for name, values in numbers.items():
            self._pending.setdefault(name, []).append(values)
        self._count += max((len(values) for values in numbers.values()), default=0)
        if self._count < (self.learned if self.summary is None else self.window):
            return None
        whole = {name: np.concatenate(parts) for name, parts in self._pending.items()}
        self._pending, self._count = {}, 0
        if self.summary is None:
            self.summary = Summary.of(whole)
            return None
        self.last = self.summary.drifted(whole)
        self.windows += 1
        self.alarms += bool(self.last)
        return self.last


def looked_at(outputs: Sequence[Tensor]) -> str | None:
    """Which output is looked at: the first, if any, unless it has numbers for each token, padding among them."""
    first = next(iter(outputs), None)
    return None if first is None or any(isinstance(size, str) for size in first.shape[1:]) else first.name


def numbers_of(
    inputs: Mapping[str, np.ndarray], output: np.ndarray | None, unknown: int | None = None
) -> dict[str, np.ndarray]:
    """The numbers of each of B inputs, from what the model was fed and what it gave (B,...), each (B,). `unknown`: see
    `Summary`."""
    import numpy as np

    numbers: dict[str, np.ndarray] = {}
    pictures = {name: array for name, array in inputs.items() if array.dtype.kind == "f" and array.ndim == 4}
    for name, array in pictures.items():
        flat_BCN = array.reshape(*array.shape[:2], -1)
        for channel in range(array.shape[1]):
            numbers[f"mean of {name}[{channel}]"] = flat_BCN[:, channel].mean(axis=-1)
            numbers[f"spread of {name}[{channel}]"] = flat_BCN[:, channel].std(axis=-1)
    mask_BN, ids_BN = inputs.get(states.MASK), inputs.get(_IDS)
    if mask_BN is not None and mask_BN.ndim == 2 and not pictures:  # texts beside pictures are what is asked of them
        numbers["length"] = mask_BN.sum(axis=1).astype(np.float64)
        if unknown is not None and ids_BN is not None:
            strange_B = ((ids_BN == unknown) & (mask_BN != 0)).sum(axis=1)
            numbers[UNKNOWN] = strange_B / np.maximum(numbers["length"], 1)
    if output is not None and output.ndim >= 2 and output.dtype.kind == "f":
        numbers |= _numbers_of_output(output)
    return numbers


def _numbers_of_output(output: np.ndarray) -> dict[str, np.ndarray]:
    import numpy as np

    flat_BK = output.reshape(len(output), -1)
    numbers = {"mean of the output": flat_BK.mean(axis=1), "spread of the output": flat_BK.std(axis=1)}
    if output.ndim == 2 and output.shape[1] > 1:
        probabilities_BK = softmax(output)
        numbers["confidence"] = probabilities_BK.max(axis=1)
        numbers["class"] = probabilities_BK.argmax(axis=1).astype(np.float64)
    return numbers


def chi_square_tail(statistic: float, freedom: int) -> float:
    """P(X >= statistic) of chi-square with `freedom` degrees of freedom, in closed form (Abramowitz, Stegun 26.4.4 and
    26.4.5)."""
    if freedom < 1:
        return 1.0
    half = statistic / 2
    if freedom % 2:
        total = math.erfc(math.sqrt(half))
        term = math.exp(-half) * math.sqrt(half / math.pi) * 2
        for step in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= half / (step + 0.5)
        return min(1.0, total)
    term = total = math.exp(-half)
    for step in range(1, freedom // 2):
        term *= half / step
        total += term
    return min(1.0, total)


def _whether(values_B: np.ndarray) -> Spread:
    """How many are 0, and how many more: a bin each, also where one of them is empty."""
    above = int((values_B > 0).sum())
    return Spread((1e-9,), (len(values_B) - above, above))


def _spread(values_B: np.ndarray) -> Spread | None:
    """Bins of about as many inputs each; None where a number does not vary. A number of few values has a bin for each
    that is frequent."""
    import numpy as np

    values = np.sort(values_B.astype(np.float64))
    values = values[np.isfinite(values)]
    distinct = np.unique(values)
    if len(distinct) < 2:
        return None
    if len(distinct) <= _BINS:
        edges = (distinct[1:] + distinct[:-1]) / 2
    else:
        edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    while len(counts) > 1 and counts.min() < _LEAST:  # join the rarest bin to its smaller neighbour
        rarest = int(counts.argmin())
        left = rarest > 0 and (rarest == len(counts) - 1 or counts[rarest - 1] <= counts[rarest + 1])
        at = rarest - 1 if left else rarest
        counts = np.concatenate([counts[:at], [counts[at] + counts[at + 1]], counts[at + 2 :]])
        edges = np.delete(edges, at)
    return Spread(tuple(map(float, edges)), tuple(map(int, counts))) if len(counts) > 1 else None
