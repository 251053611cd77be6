"""What a reducer is: fewer tokens leave a block than came in. It has no weights. One file a kind in `reducers`.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator
from torch import Tensor

from compress.model.sequence import Context, Reduction
from compress.spec import AS_ITS_VARIANT, Part


class ReducerSpec(Part):
    kind: str

    @property
    def leading(self) -> int | None:
        """How many leading tokens are all that leaves the block, so that it need not compute the others; None if
        something is left of the others too."""
        return None

    def reduction(self, x_BND: Tensor, context: Context) -> Reduction:
        """What makes fewer tokens of a block's output; it may depend on what the tokens are."""
        raise NotImplementedError


AnyReducer = Annotated[ReducerSpec, PlainValidator(ReducerSpec.parse), AS_ITS_VARIANT]
