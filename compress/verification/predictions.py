"""The kinds of answers under one name, for scripts that record their own: `Predictions(logits, labels).save(path)`."""

from __future__ import annotations

from compress.verification.kinds.classes import Predictions
from compress.verification.kinds.embeddings import EmbeddedPairs, Embeddings, PairScores
from compress.verification.kinds.losses import NextTokens, SequenceLosses
from compress.verification.kinds.texts import TextOutputs
from compress.verification.samples import Samples

__all__ = [
    "EmbeddedPairs",
    "Embeddings",
    "NextTokens",
    "PairScores",
    "Predictions",
    "Samples",
    "SequenceLosses",
    "TextOutputs",
]
