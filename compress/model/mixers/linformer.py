"""Linformer: softmax attention over a fixed number of pools of tokens.

B batch, N tokens (R of them are asked), L longest length, P pools, D hidden size, H heads, G key heads, K query/key
size, V value size.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model import scores as _scores  # noqa: F401  (registers the kinds)
from compress.model.attention import AnyScores, per_group
from compress.model.mixer import Mixer, MixerSpec
from compress.model.projection import Projection
from compress.model.sequence import Context
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError


class LinformerSpec(MixerSpec):
    """y = softmax(Q (E K)^T + o) (F V), then the output projection; E, F (P x L) are shared by the heads, o (P) is
    added to the logits (Wang et al. 2020, arXiv 2006.04768, plus o: with E = F = means of m tokens and o = log m, pools
    of equal tokens give what softmax over the tokens gives). Bidirectional: E and F look ahead.

    Sequences shorter than L and padding: a pool keeps the part of its weights that lies on real tokens, brought to the
    same total, and its logit falls by the log of that part. `length`: L; longer sequences are refused.
    """

    kind: Literal["linformer"] = "linformer"
    scores: AnyScores
    values: ProjectedValuesSpec
    length: PositiveInt
    pools: PositiveInt

    def build(self, hidden_size: int, loops: int) -> Linformer:
        return Linformer(self, hidden_size, loops)


class Linformer(Mixer):
    def __init__(self, spec: LinformerSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.scores = spec.scores.build(hidden_size, loops)
        self.values = spec.values.build(hidden_size, spec.scores.num_heads, loops)
        self.key_LP = nn.Parameter(torch.zeros(spec.length, spec.pools))
        self.value_LP = nn.Parameter(torch.zeros(spec.length, spec.pools))
        self.offset_P = nn.Parameter(torch.zeros(spec.pools))

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        v_BGPV = self._pooled(self.values.carry(x_BND, loop), self.value_LP, context)[0]
        return self.values.combine(per_group(self._rows(x_BND, loop, context), v_BGPV), loop)

    def readers(self) -> list[Projection] | None:
        scores, values = self.scores.readers(), self.values.readers()
        return None if scores is None else scores + values

    def learned(self) -> list[nn.Parameter]:
        return [self.key_LP, self.value_LP, self.offset_P]

    def _rows(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        """How much each query looks at each pool (B,H,R,P)."""
        q_BHNK, k_BGNK = self.scores(x_BND, loop, context)
        k_BGPK, share_BP = self._pooled(k_BGNK, self.key_LP, context)
        logits_BHRP = per_group(q_BHNK[:, :, : context.rows], k_BGPK.transpose(-1, -2)) + self.offset_P
        if share_BP is not None:
            logits_BHRP = logits_BHRP + share_BP.clamp(min=torch.finfo(share_BP.dtype).tiny).log()[:, None, None]
        return logits_BHRP.softmax(dim=-1)

    def _pooled(self, x_BGNK: Tensor, pool_LP: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """The tokens of each pool summed up (B,G,P,K), and which part of its weights they have (B or 1, P), None for
        all of it."""
        tokens, length = x_BGNK.shape[2], self.spec.length
        real_BN = context.real_BN(tokens)
        if torch.compiler.is_exporting():
            fixed = isinstance(tokens, int) and tokens == length
            pool_NP = pool_LP if fixed else F.embedding(torch.arange(tokens, device=x_BGNK.device), pool_LP)
        else:
            _check_length(tokens, length)
            fixed, pool_NP = tokens == length, pool_LP[:tokens]
        if fixed and real_BN is None:
            return pool_LP.T @ x_BGNK, None
        if real_BN is None:
            real_BN = x_BGNK.new_ones(1, tokens)
        pool_BNP = pool_NP * real_BN[..., None].to(pool_NP.dtype)
        share_BP = pool_BNP.abs().sum(dim=1) / pool_LP.abs().sum(dim=0).clamp(min=1e-12)
        pool_BNP = pool_BNP / share_BP.clamp(min=1e-12)[:, None]
        return pool_BNP.transpose(-1, -2)[:, None] @ x_BGNK, share_BP


def _check_length(tokens: int, length: int) -> None:
    if tokens > length:
        raise InputError(f"a sequence of {tokens} tokens is longer than the {length} that its Linformer layers take")
