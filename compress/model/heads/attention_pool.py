"""One vector of all tokens, by the attention of a learned query.

B batch, N tokens, D hidden size, H heads, V value size.

The pooling of SigLIP (Zhai et al. 2023, arXiv 2303.15343; multihead attention pooling of Lee et al. 2019, arXiv
1810.00825). As the query never changes, its products with the key map are one vector per head: `scores`.
"""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from compress.model.attention import join_heads, split_heads
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.spec import Spec


class AttentionPoolSpec(Spec):
    """p = sum_n a_hn (x_n Wv + bv)_h Wo + bo with a_h = softmax_n(x_n s_h), then p + mlp(norm(p))."""

    num_heads: PositiveInt
    mlp: MlpSpec
    norm: NormSpec

    def build(self, hidden_size: int) -> AttentionPool:
        return AttentionPool(self, hidden_size)


class AttentionPool(nn.Module):
    def __init__(self, spec: AttentionPoolSpec, hidden_size: int) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.scores = Projection(hidden_size, spec.num_heads, bias=False)
        self.value = Projection(hidden_size, hidden_size)
        self.output = Projection(hidden_size, hidden_size)
        self.norm = spec.norm.build(hidden_size, loops=1)
        self.mlp = spec.mlp.build(hidden_size, loops=1)

    def forward(self, x_BND: Tensor) -> Tensor:
        """The pooled tokens (B,D); all of them are real."""
        rows_BH1N = self.scores(x_BND).transpose(1, 2).softmax(dim=-1)[:, :, None]
        mixed_BHV = rows_BH1N @ split_heads(self.value(x_BND), self.num_heads)
        pooled_BD = self.output(join_heads(mixed_BHV))[:, 0]
        fed_BD: Tensor = pooled_BD + self.mlp(self.norm(pooled_BD), 0)
        return fed_BD
