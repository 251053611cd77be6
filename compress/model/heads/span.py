"""Where an answer begins and ends in a text. B batch, N tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compress.model.embed import Embed
from compress.model.heads.token_classifier import EachToken, EachTokenSpec
from compress.model.sequence import Context


class SpanSpec(EachTokenSpec):
    """Two numbers of each token: how well the answer begins there, and how well it ends there (BERT, Devlin et al.
    2019, arXiv 1810.04805, section 4.2)."""

    kind: Literal["span"] = "span"

    def build(self, hidden_size: int) -> SpanHead:
        return SpanHead(self, hidden_size, 2)


class SpanHead(EachToken):
    outputs = ("start_logits", "end_logits")

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        start_BN, end_BN = self.numbers(x_BND).unbind(dim=-1)
        return dict(zip(self.outputs, (start_BN, end_BN), strict=True))

    def answer(self, outputs: dict[str, Tensor]) -> Tensor:
        """Both beside each other (B,N,2)."""
        return torch.stack([outputs[name] for name in self.outputs], dim=-1)
