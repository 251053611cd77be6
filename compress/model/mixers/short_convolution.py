"""A short causal convolution between two gates: the mixer of LFM2.

B batch, N tokens, D hidden size, L taps.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from compress.model.linear.taps import Taps
from compress.model.mixer import Mixer, MixerSpec, State, StateSpec
from compress.model.projection import Projection
from compress.model.sequence import Context


class ShortConvolutionSpec(MixerSpec):
    """(b, c, v) = x W, u = taps(b * v), y = (c * u) W2: each number of a token sees the same number of the `length` - 1
    tokens before it. Padding is zero. `bias`: of all maps. The state is the last of b * v (L - 1, D)."""

    kind: Literal["short-convolution"] = "short-convolution"
    length: Annotated[int, Field(ge=2)]
    bias: bool = False

    def build(self, hidden_size: int, loops: int) -> ShortConvolution:
        return ShortConvolution(self, hidden_size, loops)


class ShortConvolution(Mixer):
    def __init__(self, spec: ShortConvolutionSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.packed = Projection(hidden_size, 3 * hidden_size, bias=spec.bias, loops=loops)
        self.taps = Taps(hidden_size, spec.length, bias=spec.bias, loops=loops)
        self.output = Projection(hidden_size, hidden_size, bias=spec.bias, loops=loops)

    def forward(self, x_BND: Tensor, loop: int, context: Context) -> Tensor:
        return self.chunk(x_BND, (self.taps.fresh(x_BND),), loop, context)[0]

    def state_spec(self) -> tuple[StateSpec, ...]:
        return (StateSpec("taps", self.taps.shape),)

    def chunk(self, x_BND: Tensor, state: State, loop: int, context: Context) -> tuple[Tensor, State]:
        before_BND, behind_BND, v_BND = self.packed(context.without_padding(x_BND), loop).chunk(3, dim=-1)
        u_BND, present = self.taps(before_BND * v_BND, state[0], loop)
        return self.output((behind_BND * u_BND)[:, : context.rows], loop), (present,)

    def readers(self) -> None:
        """An offset folded into the first map would be added at padding too, which has to stay zero."""
        return
