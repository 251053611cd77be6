"""Value and output projections: the original transformer's. H heads, G value heads, V value size per head."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from compress.model.attention import Look, Values, ValuesSpec, attend, join_heads, split_heads
from compress.model.projection import Projection


class ProjectedValuesSpec(ValuesSpec):
    """y = sum_h A_h (x Wv_g + bv_g) Wo_h + bo."""

    kind: Literal["projected"] = "projected"
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    value_bias: bool = True
    output_bias: bool = True

    def build(self, hidden_size: int, num_heads: int, loops: int) -> ProjectedValues:
        return ProjectedValues(self, hidden_size, num_heads, loops)


class ProjectedValues(Values):
    def __init__(self, spec: ProjectedValuesSpec, hidden_size: int, num_heads: int, loops: int) -> None:
        super().__init__()
        self.num_kv_heads = spec.num_kv_heads
        width = spec.num_kv_heads * spec.head_dim
        self.value = Projection(hidden_size, width, bias=spec.value_bias, loops=loops)
        self.output = Projection(num_heads * spec.head_dim, hidden_size, bias=spec.output_bias, loops=loops)

    def carry(self, x_BMD: Tensor, loop: int) -> Tensor:
        return split_heads(self.value(x_BMD, loop), self.num_kv_heads)

    def carried_shape(self, hidden_size: int) -> tuple[int, int]:
        return self.num_kv_heads, self.value.weight.shape[0] // self.num_kv_heads

    def mix(self, q_BHNK: Tensor, k_BGMK: Tensor, v_BGMV: Tensor, look: Look, loop: int) -> Tensor:
        return self.combine(attend(q_BHNK, k_BGMK, v_BGMV, look), loop)

    def combine(self, mixed_BHNV: Tensor, loop: int) -> Tensor:
        """The output (B,N,D) from the heads' mixtures of values."""
        return self.output(join_heads(mixed_BHNV), loop)

    def readers(self) -> list[Projection]:
        return [self.value]
