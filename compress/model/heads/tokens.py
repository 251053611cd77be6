"""The tokens as they are: what an encoder hands to its decoder. B batch, N tokens, D hidden size."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.sequence import Context


class TokensSpec(HeadSpec):
    """The tokens (B,N,D) behind the final norm."""

    each_token: ClassVar[bool] = True
    kind: Literal["tokens"] = "tokens"

    def build(self, hidden_size: int) -> TokensHead:
        return TokensHead()


class TokensHead(Head):
    outputs = ("last_hidden_state",)

    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        return {"last_hidden_state": x_BND}
