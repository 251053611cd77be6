"""Scores of the next token for the words alone that a source may become: a lexical shortlist.

B batch, S tokens of the source, N tokens, D hidden size, V vocabulary, K words of a source's token, A words that every
source may become, U words at hand.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from compress.model.embed import Embed
from compress.model.heads.language_model import LanguageModel, LanguageModelSpec
from compress.model.sequence import Context
from runtime.states import ALLOWED, WORDS
from runtime.texts.text import INPUTS

#: What a word loses that is not on the list. Its probability falls by e^-20: none is written in place of one that is on
#: the list, and the others' sum is the same in single precision whether it is computed or not.
LOSS = 20.0
#: Largest vocabulary whose words are kept as numbers of 16 bits.
_SHORT = 1 << 15


class ShortlistSpec(LanguageModelSpec):
    """As of a language model, but the logits of words that are not on the source's list are LOSS lower. On it are the
    `width` words of each token of the source, and the `always` words of all sources. `source_size`: how many tokens
    sources are made of."""

    kind: Literal["shortlist"] = "shortlist"  # type: ignore[assignment]
    source_size: PositiveInt
    width: PositiveInt
    always: PositiveInt

    def build(self, hidden_size: int) -> Shortlist:
        return Shortlist(self, hidden_size)


class Shortlist(LanguageModel):
    """`words_VK`: the words of each token of the source; `always_A`: those of all sources."""

    kept: ClassVar[tuple[str, ...]] = (ALLOWED,)
    words_VK: Tensor
    always_A: Tensor

    def __init__(self, spec: ShortlistSpec, hidden_size: int) -> None:
        super().__init__(spec, hidden_size)
        self.vocab_size = spec.vocab_size
        kind = torch.int16 if spec.vocab_size <= _SHORT else torch.int32
        self.register_buffer("words_VK", torch.zeros(spec.source_size, spec.width, dtype=kind))
        self.register_buffer("always_A", torch.zeros(spec.always, dtype=kind))

    def keep(self, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """1 at the words that each source may become (B,V), in FP32."""
        ids, mask = INPUTS
        words_BSK = self.words_VK[source[ids]].long()
        if mask in source:  # padding has the words of all sources
            words_BSK = torch.where(source[mask][..., None] > 0, words_BSK, self.always_A[0].long())
        words_BX = torch.cat([words_BSK.flatten(1), self.always_A.long().expand(words_BSK.shape[0], -1)], dim=1)
        none_BV = torch.zeros(words_BX.shape[0], self.vocab_size, device=words_BX.device)
        return {ALLOWED: none_BV.scatter(1, words_BX, 1.0)}

    def chunk_inputs(self) -> dict[str, Tensor]:
        return {WORDS: torch.arange(0, self.vocab_size, 2)}

    def from_inputs(
        self, x_BND: Tensor, context: Context, embed: Embed, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Of every word; where `words` (U,) are given, of these alone. While it is trained no word loses anything: what
        is off the list would be all that healing sees."""
        if self.training:
            return self(x_BND, context, embed)
        allowed_BV = inputs[ALLOWED] if ALLOWED in inputs else self.keep(inputs)[ALLOWED]
        if WORDS not in inputs:
            return {"logits": self(x_BND, context, embed)["logits"] - LOSS * (1 - allowed_BV)[:, None]}
        words_U = inputs[WORDS]
        scores_BNU = embed.logits(x_BND, words_U) if self.output is None else self.output.some(x_BND, words_U)
        if self.bias_V is not None:
            scores_BNU = scores_BNU + self.bias_V[words_U]
        return {"logits": self.capped(scores_BNU) - LOSS * (1 - allowed_BV[:, words_U])[:, None]}
