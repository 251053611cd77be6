"""Texts that two systems wrote for the same inputs, as files of JSON lines, and their BLEU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from compress.verification.predictions import TextOutputs
from runtime.texts.text import is_unicode
from targets.errors import EnvironmentLacks, InputError


def read_outputs(path: Path) -> TextOutputs:
    """Read lines of `{"output": what the system wrote, "reference": what people wrote}`.

    Raises InputError that names the line, EnvironmentLacks without sacrebleu.
    """
    bleu = _bleu()
    counts, gold = [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not valid JSON in UTF-8: {error}") from error
        output, reference = (record.get(key) if isinstance(record, dict) else None for key in ("output", "reference"))
        if not isinstance(output, str) or not isinstance(reference, str) or not reference.strip():
            raise InputError(f'{path}, line {number}: give {{"output": text, "reference": text}}')
        if not is_unicode(output + reference):
            raise InputError(f"{path}, line {number}: half a character (\\ud800 to \\udfff); write it whole")
        score = bleu.corpus_score([output], [[reference]])
        counts.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
        gold.append(int.from_bytes(hashlib.sha256(reference.encode()).digest()[:7], "big"))
    return TextOutputs(np.array(counts, np.int64).reshape(-1, 10), np.array(gold, np.int64))


def corpus_bleu(sums_K: np.ndarray) -> float:
    """BLEU of summed counts, as sacrebleu gives it for the whole corpus (its smoothing included)."""
    correct, total, lengths = np.split(np.rint(sums_K).astype(np.int64), [4, 8])
    score = _bleu().compute_bleu(
        correct.tolist(), total.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    )
    return float(score.score)


def _bleu() -> Any:
    if importlib.util.find_spec("sacrebleu") is None:
        raise EnvironmentLacks("BLEU needs the package sacrebleu; pip install sacrebleu")
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=False)
