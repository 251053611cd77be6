"""Heads: from the last tokens (B,N,D) to what the model is asked for.

B batch, N tokens, D hidden size, C classes, V vocabulary.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import PlainValidator, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.activations import ACTIVATIONS, ActivationName
from compress.model.embed import Embed
from compress.model.mixer import Context
from compress.model.projection import Projection
from compress.spec import AS_ITS_VARIANT, Part

Pool = Literal["cls", "mean", "patch-mean", "distillation", "last"]


class HeadSpec(Part):
    kind: str

    def build(self, hidden_size: int) -> Head:
        raise NotImplementedError


AnyHead = Annotated[HeadSpec, PlainValidator(HeadSpec.parse), AS_ITS_VARIANT]


class Head(nn.Module):
    #: Name of what comes out, in exported graphs.
    output_name: ClassVar[str] = "logits"

    def reader(self) -> Projection | None:
        """The projection that reads the (pooled) final norm, where its gains can be folded; None if there is none."""
        return None

    def select(self, x_BND: Tensor) -> Tensor:
        """The tokens that the head will read, so that the final norm works on no others."""
        return x_BND

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> Tensor:
        """`x`: the selected tokens, after the final norm. `embed`: whose table a tied head reads."""
        raise NotImplementedError


class ClassifierSpec(HeadSpec):
    """logits = concat(pooled tokens) W + b, with `hidden` through act(concat W1 + b1) of the hidden size first (BERT's
    pooler). Pools: `cls` the first token, `distillation` the second (DeiT), `mean` all real tokens, `patch-mean` all
    but the first (DINOv2), `last` the last real token (decoders)."""

    kind: Literal["classifier"] = "classifier"
    num_labels: PositiveInt
    pools: tuple[Pool, ...] = ("cls",)
    bias: bool = True
    hidden: ActivationName | None = None

    @property
    def tokens(self) -> int | None:
        """How many leading tokens the pools read; None if they read all."""
        if any(pool not in ("cls", "distillation") for pool in self.pools):
            return None
        return 2 if "distillation" in self.pools else 1

    def build(self, hidden_size: int) -> Classifier:
        return Classifier(self, hidden_size)


class Classifier(Head):
    def __init__(self, spec: ClassifierSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.tokens = spec.tokens
        width = len(spec.pools) * hidden_size
        self.hidden = Projection(width, hidden_size) if spec.hidden else None
        self.output = Projection(hidden_size if spec.hidden else width, spec.num_labels, bias=spec.bias)

    def reader(self) -> Projection:
        return self.hidden or self.output

    def select(self, x_BND: Tensor) -> Tensor:
        return x_BND[:, : self.tokens]

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> Tensor:
        pooled = torch.cat([_pool(x_BND, pool, context) for pool in self.spec.pools], dim=-1)
        if self.hidden is not None and self.spec.hidden is not None:
            pooled = ACTIVATIONS[self.spec.hidden](self.hidden(pooled))
        return self.output(pooled)


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
        pooled_BD = _pool(x_BND, self.spec.pool, context)
        return F.normalize(pooled_BD, dim=-1) if self.spec.normalize else pooled_BD


class LanguageModelSpec(HeadSpec):
    """Scores of the next token (B,N,V): x W + b, or `tied`, x table^T."""

    kind: Literal["language-model"] = "language-model"
    vocab_size: PositiveInt
    tied: bool = True
    bias: bool = False

    def build(self, hidden_size: int) -> LanguageModel:
        return LanguageModel(self, hidden_size)


class LanguageModel(Head):
    def __init__(self, spec: LanguageModelSpec, hidden_size: int) -> None:
        super().__init__()
        self.output = None if spec.tied else Projection(hidden_size, spec.vocab_size, bias=spec.bias)

    def reader(self) -> Projection | None:
        return self.output

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> Tensor:
        return embed.logits(x_BND) if self.output is None else self.output(x_BND)


def _pool(x_BND: Tensor, pool: Pool, context: Context) -> Tensor:
    real_BN = context.real_BN(x_BND.shape[1])
    if pool == "mean":
        return x_BND.mean(dim=1) if real_BN is None else _mean(x_BND, real_BN)
    if pool == "patch-mean":
        return x_BND[:, 1:].mean(dim=1)
    if pool == "last":
        return x_BND[:, -1] if real_BN is None else _last(x_BND, real_BN)
    return x_BND[:, 0 if pool == "cls" else 1]


def _mean(x_BND: Tensor, real_BN: Tensor) -> Tensor:
    share_BN1 = real_BN.to(x_BND.dtype)[..., None]
    return (x_BND * share_BN1).sum(dim=1) / share_BN1.sum(dim=1).clamp(min=1)


def _last(x_BND: Tensor, real_BN: Tensor) -> Tensor:
    place_N = torch.arange(x_BND.shape[1], device=x_BND.device)
    last_B = torch.where(real_BN, place_N, 0).amax(dim=1)
    return x_BND.gather(1, last_B[:, None, None].expand(-1, 1, x_BND.shape[2]))[:, 0]
