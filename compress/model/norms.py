"""Layer normalization and RMS normalization with gains of each loop's own. B batch, N tokens, D hidden size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.spec import Spec


class NormSpec(Spec):
    """kind `layer`: (x - mean) / sqrt(var + eps); `rms`: x / sqrt(mean(x^2) + eps); `none`: x as it is (MobileBERT).
    `affine`: gains (and offsets where `bias`, which `rms` has not) follow; without them they have been folded into the
    readers."""

    kind: Literal["layer", "rms", "none"] = "layer"
    eps: float = 1e-6
    affine: bool = True
    bias: bool = True

    def build(self, hidden_size: int, loops: int) -> Norm:
        return Norm(self, hidden_size, loops)


class Norm(nn.Module):
    def __init__(self, spec: NormSpec, hidden_size: int, loops: int) -> None:
        super().__init__()
        self.spec = spec
        self.hidden_size = hidden_size
        has_bias = spec.affine and spec.bias and spec.kind != "rms"
        self.weight = nn.ParameterList(
            [nn.Parameter(torch.ones(hidden_size)) for _ in range(loops if spec.affine else 0)]
        )
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(hidden_size)) for _ in range(loops if has_bias else 0)])

    def forward(self, x_BND: Tensor, loop: int = 0) -> Tensor:
        weight = self.weight[loop] if len(self.weight) else None
        bias = self.bias[loop] if len(self.bias) else None
        if self.spec.kind == "rms":
            return F.rms_norm(x_BND, (self.hidden_size,), weight, self.spec.eps)
        if self.spec.kind == "layer":
            return F.layer_norm(x_BND, (self.hidden_size,), weight, bias, self.spec.eps)
        gained = x_BND if weight is None else x_BND * weight
        return gained if bias is None else gained + bias
