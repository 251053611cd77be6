"""Which tokens there are: what a sequence carries besides its tokens, and the original's tensors for the same tokens.

B batch, N tokens at hand, P tokens before them, M = P + N, R tokens that are left, S tokens of an encoder, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from targets.errors import InputError


class Reduction(Protocol):
    """Makes fewer tokens of the tokens of a sequence: each is the mean of some of them, and none is in two."""

    @property
    def kept(self) -> int:
        """How many leading tokens stay as they are, in their places."""
        ...

    @property
    def rest(self) -> bool:
        """Whether something is left of the tokens behind the kept ones."""
        ...

    def __call__(self, x_BND: Tensor, real_BN: Tensor | None = None) -> Tensor:
        """The tokens that are left (B,R,D); `real_BN`: True at the tokens that are not padding, all if not given."""
        ...


@dataclass(frozen=True)
class Memory:
    """What the cross-attention of a decoder reads: the encoder's tokens (B,S,D), or `kept`, what a block made of them
    once and is handed at every step. `mask_BS`: True at real tokens; None means all are real."""

    mask_BS: Tensor | None
    x_BSD: Tensor | None = None
    kept: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Context:
    """What a sequence carries besides its tokens. `mask_BM`: True at real tokens, in the chunk form those of the past
    first; None means all are real. `positions_BN`: the place of each token in its sequence; None means 0, 1, 2, ...
    `rows`: how many tokens, the first ones, are asked for as output; None means all. `sources`: what made the tokens at
    hand of those that the embedding gave, in order; nothing means that each stands for itself. `memory`: of an encoder,
    where there is one."""

    mask_BM: Tensor | None = None
    positions_BN: Tensor | None = None
    rows: int | None = None
    sources: tuple[Reduction, ...] = ()
    memory: Memory | None = None

    def places_BN(self, x_BND: Tensor) -> Tensor:
        """The place of each token of x in its sequence (1 or B, N)."""
        if self.positions_BN is not None:
            return self.positions_BN
        return torch.arange(x_BND.shape[1], device=x_BND.device)[None]

    def real_BN(self, tokens: int) -> Tensor | None:
        """True at the real ones of the tokens at hand, which are the last of the mask; None means all are real."""
        return None if self.mask_BM is None else self.mask_BM[:, -tokens:].bool()

    def without_padding(self, x_BND: Tensor) -> Tensor:
        """The tokens at hand, with zeros in place of those that are padding."""
        real_BN = self.real_BN(x_BND.shape[1])
        return x_BND if real_BN is None else x_BND * real_BN[..., None].to(x_BND.dtype)

    def reduced(self, reduction: Reduction) -> Context:
        """What the tokens carry that a reduction leaves: the mean of their places, and real where one of them is."""
        mask_BN, places_BN = self.mask_BM, self.positions_BN
        if places_BN is not None:
            real_BN = None if mask_BN is None else mask_BN.bool()
            places_BN = reduction(places_BN[..., None].float(), real_BN)[..., 0]
        if mask_BN is not None:
            mask_BN = reduction(mask_BN[..., None].float())[..., 0] > 0
        return Context(mask_BN, places_BN, self.rows, _joined(self.sources, reduction), self.memory)


class Tokens(NamedTuple):
    """A tensor of tokens (B,N,D) and what the sequence carries there."""

    x_BND: Tensor
    context: Context

    @property
    def real_BN(self) -> Tensor | None:
        """True at the tokens that are not padding; None if all are real."""
        return self.context.real_BN(self.x_BND.shape[1])

    def reduced(self, reduction: Reduction) -> Tokens:
        """The tokens that are left."""
        return Tokens(reduction(self.x_BND, self.real_BN), self.context.reduced(reduction))


def answered_mask(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """1 at the real ones of the tokens that a model answers for: a decoder's own, where there is an encoder; None means
    all are real."""
    return inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")


def aligned(theirs: Tokens, mine: Context) -> Tensor:
    """The original's tensor for the tokens that `mine` has: what is the mean of some tokens is held to the mean of
    the original's there. Raises InputError if the original does not have these tokens apart."""
    for reduction in _missing(theirs.context, mine):
        theirs = theirs.reduced(reduction)
    return theirs.x_BND


def aligned_rows(rows_BHNM: Tensor, theirs: tuple[Context, Context], mine: tuple[Context, Context]) -> Tensor:
    """The original's attention rows for the queries and keys (two contexts each) that `mine` has: the mean over what a
    query stands for, the sum over what a key does."""
    batch, heads, _, keys = rows_BHNM.shape
    if _missing(theirs[1], mine[1]):
        eye_BMM = torch.eye(keys, device=rows_BHNM.device, dtype=rows_BHNM.dtype).expand(batch, -1, -1)
        of_BKM = aligned(Tokens(eye_BMM, theirs[1]), mine[1]) > 0
        rows_BHNM = rows_BHNM @ of_BKM.to(rows_BHNM.dtype).transpose(1, 2)[:, None]
    rows_BNE = rows_BHNM.transpose(1, 2).flatten(2)
    rows_BRE = aligned(Tokens(rows_BNE, theirs[0]), mine[0])
    return rows_BRE.reshape(*rows_BRE.shape[:2], heads, -1).transpose(1, 2)


def _joined(sources: tuple[Reduction, ...], reduction: Reduction) -> tuple[Reduction, ...]:
    """The sources after one more; those that changed nothing of what is left are forgotten."""
    if not reduction.rest:
        sources = tuple(one for one in sources if one.kept < reduction.kept)
    return (*sources, reduction)


def _missing(theirs: Context, mine: Context) -> tuple[Reduction, ...]:
    """What the original's tokens have still to go through."""
    done = len(theirs.sources)
    if mine.sources[:done] != theirs.sources:
        raise InputError(
            f"the model and its original cannot be held against each other: the original's tokens went through "
            f"{_names(theirs)}, the model's through {_names(mine)}; pool or trim the model as the original is"
        )
    return mine.sources[done:]


def _names(context: Context) -> str:
    return " and ".join(str(one) for one in context.sources) or "nothing"
