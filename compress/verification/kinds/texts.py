"""Texts that two systems wrote for the same inputs, as files of JSON lines, judged by BLEU.

S samples, K columns.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.verification.metric import F64, Metric
from compress.verification.samples import Samples, as_array
from runtime.files import parse_json
from runtime.texts.text import is_unicode
from targets.errors import EnvironmentLacks, InputError


def _output_rows(p: Any) -> F64:
    counts: NDArray[np.int64] = p.counts
    return counts.astype(np.float64)


#: Weighted sums of counts are scaled to this many texts, so that rounding to whole n-grams does not show.
_TEXTS = 1000


def _weighted_bleu(rows_RK: F64, weights_BR: F64) -> F64:
    return np.array([corpus_bleu(sums_K) for sums_K in _TEXTS * (weights_BR @ rows_RK)])


def _output_failed(rows_SK: F64) -> F64:
    """Each text without a single n-gram of its reference."""
    return np.concatenate([np.zeros((len(rows_SK), 4)), rows_SK[:, 4:]], axis=1)


#: Of anything with the `counts` of BLEU.
BLEU = Metric(
    "bleu",
    "BLEU",
    "points",
    True,
    _output_rows,
    of_rows=lambda rows: corpus_bleu(rows.sum(axis=0)),
    of_weights=_weighted_bleu,
    unseen=_output_failed,
)


@dataclass(frozen=True, eq=False)
class TextOutputs(Samples):
    """What BLEU counts of each text that a system wrote, int64 [S, 10]: n-grams of 1 to 4 that are right, n-grams of 1
    to 4, its length and the reference's. `gold` int64 [S]: digests of the references, which both sides must share."""

    counts: NDArray[np.int64]
    gold: NDArray[np.int64]

    kind: ClassVar[str] = "text outputs"
    shared: ClassVar[tuple[str, ...]] = ("gold",)
    metrics: ClassVar[tuple[Metric, ...]] = (BLEU,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", as_array(self.counts, np.int64, 2, "counts"))
        object.__setattr__(self, "gold", as_array(self.gold, np.int64, 1, "gold"))
        if self.counts.shape != (len(self.gold), 10):
            raise InputError(f"counts of shape {list(self.counts.shape)} for {len(self.gold)} texts: give [texts, 10]")

    def compact(self) -> NDArray[Any]:
        return self.counts.astype("<i8").ravel()

    def restored(self, data: bytes) -> TextOutputs:
        return TextOutputs(np.frombuffer(data, "<i8").reshape(-1, 10), self.gold)


def read_outputs(path: Path) -> TextOutputs:
    """Read lines of `{"output": what the system wrote, "reference": what people wrote}`.

    Raises InputError that names the line, EnvironmentLacks without sacrebleu.
    """
    counts, gold = [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line.decode("utf-8-sig"))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON in UTF-8: {error}") from error
        output, reference = (record.get(key) if isinstance(record, dict) else None for key in ("output", "reference"))
        if not isinstance(output, str) or not isinstance(reference, str) or not reference.strip():
            raise InputError(f'{path}, line {number}: give {{"output": text, "reference": text}}')
        if not is_unicode(output + reference):
            raise InputError(f"{path}, line {number}: half a character (\\ud800 to \\udfff); write it whole")
        counts.append(bleu_counts(output, reference))
        gold.append(digest_of(reference))
    return TextOutputs(np.array(counts, np.int64).reshape(-1, 10), np.array(gold, np.int64))


def bleu_counts(output: str, reference: str) -> list[int]:
    """What BLEU counts of one text (see `TextOutputs`). Raises EnvironmentLacks without sacrebleu."""
    score = _bleu().corpus_score([output], [[reference]])
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def digest_of(text: str) -> int:
    """A number that tells texts apart."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def corpus_bleu(sums_K: np.ndarray) -> float:
    """BLEU of summed counts, as sacrebleu gives it for the whole corpus (its smoothing included)."""
    correct, total, lengths = np.split(np.rint(sums_K).astype(np.int64), [4, 8])
    score = _bleu().compute_bleu(
        correct.tolist(), total.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    )
    return float(score.score)


@functools.cache
def _bleu() -> Any:
    if importlib.util.find_spec("sacrebleu") is None:
        raise EnvironmentLacks("BLEU needs the package sacrebleu; pip install sacrebleu")
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=False)
