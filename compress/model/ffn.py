"""What a feed-forward is: a map of each token on its own, x (B,N,D) -> (B,N,D)."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator
from torch import Tensor, nn

from compress.model.projection import Projection
from compress.spec import AS_ITS_VARIANT, Part


class FfnSpec(Part):
    kind: str

    def build(self, hidden_size: int, loops: int) -> Ffn:
        raise NotImplementedError


AnyFfn = Annotated[FfnSpec, PlainValidator(FfnSpec.parse), AS_ITS_VARIANT]


class Ffn(nn.Module):
    def forward(self, x_BND: Tensor, loop: int) -> Tensor:
        raise NotImplementedError

    def readers(self) -> list[Projection]:
        """The projections that read the block's normed input directly, where a norm's gains can be folded."""
        raise NotImplementedError
