"""Which tokens of a text are not its own. B batch, N tokens."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from compress.model.embed import Embed
from compress.model.heads.token_classifier import EachToken, EachTokenSpec
from compress.model.sequence import Context


class ReplacedSpec(EachTokenSpec):
    """One logit (B,N) of each token, above 0 where it was put in another's place (ELECTRA, Clark et al. 2020, arXiv
    2003.10555)."""

    kind: Literal["replaced"] = "replaced"

    def build(self, hidden_size: int) -> Replaced:
        return Replaced(self, hidden_size, 1)


class Replaced(EachToken):
    def forward(self, x_BND: Tensor, context: Context, embed: Embed) -> dict[str, Tensor]:
        return {"logits": self.numbers(x_BND)[..., 0]}
