"""A vector per sequence. B batch, N tokens, D hidden size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.pooling import Pool, pooled
from compress.model.sequence import Context


class EmbeddingSpec(HeadSpec):
    """A vector per sequence: the pooled tokens (B,D), of length one where `normalize` (sentence-transformers)."""

    kind: Literal["embedding"] = "embedding"
    pool: Pool = "mean"
    normalize: bool = True

    def build(self, hidden_size: int) -> Embedding:
        return Embedding(self)


class Embedding(Head):
    output_name = "sentence_embedding"

    def __init__(self, spec: EmbeddingSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> Tensor:
        pooled_BD = pooled(x_BND, self.spec.pool, context)
        return F.normalize(pooled_BD, dim=-1) if self.spec.normalize else pooled_BD
