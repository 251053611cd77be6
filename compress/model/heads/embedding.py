"""A vector per sequence. B batch, N tokens, D hidden size."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.heads.attention_pool import AttentionPoolSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool, pooled
from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.spec import Spec


class DenseSpec(Spec):
    """y = act(x W + b), W (inputs x size)."""

    size: PositiveInt
    activation: ActivationName | None = None
    bias: bool = True


class VectorSpec(HeadSpec):
    """A vector per sample: the pooled tokens (B,D), through `dense` maps one after the other, of length one where
    `normalize`."""

    kind: str
    pool: Pool = "mean"
    dense: tuple[DenseSpec, ...] = ()
    normalize: bool = True

    @property
    def tokens(self) -> int | None:
        return 1 if self.pool == "cls" else None


class EmbeddingSpec(VectorSpec):
    """The vector of a text (sentence-transformers)."""

    kind: Literal["embedding"] = "embedding"

    def build(self, hidden_size: int) -> Embedding:
        return Embedding(self, hidden_size)


class ImageEmbeddingSpec(VectorSpec):
    """The vector of an image, by default its first token; with `attention` all of them are pooled so, and not by
    `pool`. `prefix`: how many tokens in front are not patches; `pool_norm`: of what is pooled."""

    kind: Literal["image-embedding"] = "image-embedding"
    pool: Pool = "cls"
    normalize: bool = False
    attention: AttentionPoolSpec | None = None
    prefix: NonNegativeInt = 1
    pool_norm: NormSpec | None = None

    @property
    def tokens(self) -> int | None:
        return super().tokens if self.attention is None else None

    def build(self, hidden_size: int) -> ImageEmbedding:
        return ImageEmbedding(self, hidden_size)


class Embedding(Head):
    outputs: ClassVar[tuple[str, ...]] = ("sentence_embedding",)

    def __init__(self, spec: VectorSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec, self.tokens = spec, spec.tokens
        sizes = [hidden_size, *(one.size for one in spec.dense)]
        self.dense = nn.ModuleList(
            Projection(size, one.size, bias=one.bias) for size, one in zip(sizes, spec.dense, strict=False)
        )

    def select(self, x_BND: Tensor) -> Tensor:
        return x_BND[:, : self.tokens]

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        pooled_BD = self.pooled(x_BND, context)
        for one, dense in zip(self.spec.dense, self.dense, strict=True):
            pooled_BD = dense(pooled_BD)
            if one.activation is not None:
                pooled_BD = ACTIVATIONS[one.activation](pooled_BD)
        return {self.outputs[0]: F.normalize(pooled_BD, dim=-1) if self.spec.normalize else pooled_BD}

    def pooled(self, x_BND: Tensor, context: Context) -> Tensor:
        """One vector of all tokens (B,D)."""
        return pooled(x_BND, self.spec.pool, context)


class ImageEmbedding(Embedding):
    outputs = ("image_embedding",)

    def __init__(self, spec: ImageEmbeddingSpec, hidden_size: int) -> None:
        super().__init__(spec, hidden_size)
        self.prefix = spec.prefix
        self.attention = spec.attention.build(hidden_size) if spec.attention else None
        self.pool_norm = spec.pool_norm.build(hidden_size, loops=1) if spec.pool_norm else None

    def pooled(self, x_BND: Tensor, context: Context) -> Tensor:
        pooled_BD = (
            pooled(x_BND, self.spec.pool, context, self.prefix) if self.attention is None else self.attention(x_BND)
        )
        return pooled_BD if self.pool_norm is None else self.pool_norm(pooled_BD)
