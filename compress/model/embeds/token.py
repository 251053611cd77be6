"""Tokens of texts. B batch, N tokens, P tokens before them, M = P + N, D hidden size, V vocabulary, E embedding width,
R rank.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed, EmbedSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class TokenEmbedSpec(EmbedSpec):
    """x = norm(table[id] + position[place] + kind[0 or type]), then a map to the hidden size where `width` is another.

    Inputs: `input_ids` (B,N); `attention_mask` (B,M), 1 at real tokens, all real if not given; `position_ids` (B,N);
    `token_type_ids` (B,N) with `token_types` above 1, else the first type's row is all there is.
    `max_positions`: rows of the learned position table, 0 without one (rotary). `places`: where positions come from if
    they are not given: `index` 0, 1, 2 ...; `mask` the count of real tokens so far, as RoBERTa does; `offset` is added
    to both. `width`: of all tables (ALBERT), the hidden size if not given. `rank`: the table is (V x R)(R x E).
    `scale`: what is read from the token table is multiplied by it, and by a tied head not (Gemma).
    `rows`: how many rows the table has; a lookup of V numbers says which one a token reads.
    `end`: a text ends at the first of this token, or at its first token of the `highest` number; what is behind is
    taken for padding (CLIP).
    `borrowed`: an encoder reads the token table of its decoder and has none of its own.
    `waves`: the positions are not learned but sines and cosines of place / 10000^(2k / E) (`even`: Vaswani et al. 2017,
    arXiv 1706.03762) or of place / 10000^(k / (E/2 - 1)) (`closed`: tensor2tensor), all sines first.
    `trigram`: the rows of the token behind, of the token and of the one before it go through the map to the hidden
    size, and places and kinds are added after it (MobileBERT).
    """

    kind: Literal["token"] = "token"
    vocab_size: PositiveInt
    max_positions: NonNegativeInt = 0
    token_types: NonNegativeInt = 0
    places: Literal["index", "mask"] = "index"
    offset: NonNegativeInt = 0
    width: PositiveInt | None = None
    rank: PositiveInt | None = None
    rows: PositiveInt | None = None
    scale: float = 1.0
    end: NonNegativeInt | Literal["highest"] | None = None
    norm: NormSpec | None = None
    borrowed: bool = False
    waves: Literal["even", "closed"] | None = None
    trigram: bool = False

    def sequence(self, batch: int, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(self.vocab_size, (batch, tokens), generator=generator)}

    def build(self, hidden_size: int) -> TokenEmbed:
        return TokenEmbed(self, hidden_size)


class TokenEmbed(Embed):
    row_V: Tensor | None
    position: Tensor | None

    def __init__(self, spec: TokenEmbedSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width or hidden_size
        added = hidden_size if spec.trigram else width  # width of places and kinds
        self._lender: tuple[TokenEmbed, ...] = ()
        if not spec.borrowed:
            self.table = _table(spec.rows or spec.vocab_size, spec.rank or width)
        self.register_buffer("row_V", torch.zeros(spec.vocab_size, dtype=torch.int32) if spec.rows else None)
        self.factor = Projection(spec.rank, width, bias=False) if spec.rank else None
        if spec.waves:
            self.register_buffer("position", waves_of(spec.max_positions, added, spec.waves), persistent=False)
        else:
            self.position = _table(spec.max_positions, added) if spec.max_positions else None
        self.token_type = _table(spec.token_types, added) if spec.token_types else None
        self.norm = spec.norm.build(added, loops=1) if spec.norm else None
        self.widen = Projection(3 * width if spec.trigram else width, hidden_size) if spec.width else None

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Context]:
        ids_BN, mask_BM = inputs["input_ids"], inputs.get("attention_mask")
        places_BN = self._places(ids_BN, mask_BM, inputs.get("position_ids"))
        x_BNE = self._lender[0].looked_up(ids_BN) if self._lender else self.looked_up(ids_BN)
        if self.spec.scale != 1.0:
            x_BNE = x_BNE * self.spec.scale
        if self.spec.trigram and self.widen is not None:
            x_BNE = self.widen(_with_neighbours(x_BNE))
        if self.position is not None:
            x_BNE = x_BNE + F.embedding(places_BN, self.position)
        if self.token_type is not None:
            types_BN = inputs.get("token_type_ids")
            x_BNE = x_BNE + (
                self.token_type[0]
                if types_BN is None or self.spec.token_types < 2
                else F.embedding(types_BN, self.token_type)
            )
        if self.norm is not None:
            x_BNE = self.norm(x_BNE)
        x_BND = x_BNE if self.widen is None or self.spec.trigram else self.widen(x_BNE)
        return x_BND, Context(mask_BM if self.spec.end is None else self._ended(ids_BN, mask_BM), places_BN)

    def looked_up(self, ids_BN: Tensor) -> Tensor:
        """What the token table says (B,N,E)."""
        x_BNE = F.embedding(ids_BN if self.row_V is None else self.row_V[ids_BN], self.table)
        return x_BNE if self.factor is None else self.factor(x_BNE)

    def borrow(self, lender: TokenEmbed) -> None:
        """Read the table of `lender` from now on. It stays the lender's: no weight of this module is added."""
        self._lender = (lender,)

    def logits(self, x_BND: Tensor, words_U: Tensor | None = None) -> Tensor:
        assert self.row_V is None, "a tied head gives a score to every token"
        x_BNR = x_BND if self.factor is None else F.linear(x_BND, self.factor.weight.T)
        return F.linear(x_BNR, self.table if words_U is None else F.embedding(words_U, self.table))

    def _places(self, ids_BN: Tensor, mask_BM: Tensor | None, given_BN: Tensor | None) -> Tensor:
        if given_BN is not None:
            return given_BN
        if self.spec.places == "mask" and mask_BM is not None:
            real_BN = mask_BM.long()
            return real_BN.cumsum(dim=1) * real_BN + (self.spec.offset - 1) * real_BN + self._padded(real_BN)
        return torch.arange(ids_BN.shape[1], device=ids_BN.device)[None] + self.spec.offset

    def _ended(self, ids_BN: Tensor, mask_BM: Tensor | None) -> Tensor:
        """The mask of a text with nothing real behind its end."""
        end = self.spec.end
        assert end is not None
        # Numbers of 32 bits: ONNX takes the largest of those and not of 64 bits on every runtime.
        marked_BN = (ids_BN if end == "highest" else ids_BN.eq(end)).int()
        place_N = torch.arange(ids_BN.shape[1], device=ids_BN.device)
        before_BN = place_N <= marked_BN.argmax(dim=1, keepdim=True)
        return before_BN if mask_BM is None else mask_BM.bool() & before_BN

    def _padded(self, real_BN: Tensor) -> Tensor:
        """Padding reads the row before the first place, as RoBERTa does."""
        return (1 - real_BN) * max(0, self.spec.offset - 1)


def _with_neighbours(x_BNE: Tensor) -> Tensor:
    """The token behind each token, the token and the one before it, side by side, with zeros beyond the ends."""
    return torch.cat([F.pad(x_BNE[:, 1:], (0, 0, 0, 1)), x_BNE, F.pad(x_BNE[:, :-1], (0, 0, 1, 0))], dim=-1)


def waves_of(count: int, width: int, kind: Literal["even", "closed"]) -> Tensor:
    """Rows of sines and cosines (count, width), in the precision in which the originals compute them."""
    half = width // 2
    exact = torch.float64 if kind == "even" else torch.float32
    place_N1 = torch.arange(count, dtype=exact, device="cpu")[:, None]  # a constant, also of a model without weights
    steps = half if kind == "even" else half - 1
    rate_K = torch.exp(torch.arange(half, dtype=exact, device="cpu") * (-math.log(10000) / steps))
    return torch.cat([(place_N1 * rate_K).sin(), (place_N1 * rate_K).cos()], dim=1).float()


def _table(rows: int, width: int) -> nn.Parameter:
    table = nn.Parameter(torch.empty(rows, width))
    nn.init.trunc_normal_(table, std=0.02)
    return table
