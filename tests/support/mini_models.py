"""Tiny random models for the tests: a 2-layer transformer classifier, once plain, once looped, and a recurrent cell.

B batch, N tokens, D hidden, H heads, K head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, HEADS, TOKENS, LABELS = 48, 3, 17, 5
IMAGE = (3, 16, 16)
DYNAMIC = {"pixel_values": {0: "batch"}}


class Block(nn.Module):
    """Pre-norm attention and MLP, attention written out in plain products."""

    def __init__(self, packed: bool = True) -> None:
        super().__init__()
        self.packed = packed
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        if packed:
            self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        else:
            self.q, self.k, self.v = (nn.Linear(HIDDEN, HIDDEN) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 96), nn.Linear(96, HIDDEN)

    def attention(self, x_BND: Tensor) -> Tensor:
        batch, tokens, _ = x_BND.shape
        size = HIDDEN // HEADS
        if self.packed:
            q, k, v = self.qkv(x_BND).view(batch, tokens, 3, HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (
                layer(x_BND).view(batch, tokens, HEADS, size).transpose(1, 2) for layer in (self.q, self.k, self.v)
            )
        p_BHNN = torch.softmax(q * size**-0.5 @ k.transpose(-1, -2), dim=-1)
        return self.out((p_BHNN @ v).transpose(1, 2).reshape(batch, tokens, HIDDEN))

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        return x_BND + self.down(F.gelu(self.up(self.norm2(x_BND))))


class MiniViT(nn.Module):
    """Patches of 4 on a 16 x 16 image, `loops` runs through `layers` blocks."""

    def __init__(self, layers: int = 2, loops: int = 1, packed: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, HIDDEN, 4, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.position = nn.Parameter(torch.zeros(1, TOKENS, HIDDEN))
        self.blocks = nn.ModuleList(Block(packed) for _ in range(layers))
        self.loops = loops
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, LABELS)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x_BND = self.patch(inputs["pixel_values"]).flatten(2).transpose(1, 2)
        x_BND = torch.cat([self.cls.expand(x_BND.shape[0], -1, -1), x_BND], dim=1) + self.position
        for _ in range(self.loops):
            for block in self.blocks:
                x_BND = block(x_BND)
        return self.head(self.norm(x_BND)[:, 0])


class LinearAttentionCell(nn.Module):
    """Linear attention as a recurrence over chunks: y = q S' / (q z'), S' = S + k^T v, z' = z + sum k."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x_BND = inputs["x"]
        q, k, v = F.relu(self.q(x_BND)) + 0.1, F.relu(self.k(x_BND)) + 0.1, self.v(x_BND)
        s_BDD = inputs["past_s"] + k.transpose(1, 2) @ v
        z_BD1 = inputs["past_z"] + k.sum(dim=1)[..., None]
        return self.out((q @ s_BDD) / (q @ z_BD1)), s_BDD, z_BD1


class MiniDecoder(nn.Module):
    """One block of a language model with a cache: RMS norms, rotary positions, causal mask, tied output layer."""

    VOCABULARY = 1200

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.VOCABULARY, HIDDEN)
        self.q, self.k, self.v, self.out = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.norm1, self.norm2 = nn.RMSNorm(HIDDEN, eps=1e-6), nn.RMSNorm(HIDDEN, eps=1e-6)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        ids_BN, past_k, past_v = inputs["ids"], inputs["past_k"], inputs["past_v"]
        (batch, chunk), seen, size = ids_BN.shape, past_k.shape[2], HIDDEN // HEADS
        frequency = 10000 ** (-torch.arange(0, size, 2) / size)
        angle_NK = (torch.arange(chunk)[:, None] + seen) * frequency

        def rotated(x_BHNK: Tensor) -> Tensor:
            a, b = x_BHNK.chunk(2, dim=-1)
            return torch.cat([a * angle_NK.cos() - b * angle_NK.sin(), a * angle_NK.sin() + b * angle_NK.cos()], -1)

        x_BND = self.embedding(ids_BN)
        y_BND = self.norm1(x_BND)
        q, k, v = (layer(y_BND).view(batch, chunk, HEADS, size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = torch.cat([past_k, rotated(k)], dim=2), torch.cat([past_v, v], dim=2)
        allowed_NM = torch.arange(k.shape[2])[None] <= torch.arange(chunk)[:, None] + seen
        logits = rotated(q) @ k.transpose(-1, -2) * size**-0.5
        p = logits.masked_fill(~allowed_NM, torch.finfo(torch.float32).min).softmax(-1)
        x_BND = x_BND + self.out((p @ v).transpose(1, 2).reshape(batch, chunk, HIDDEN))
        return F.linear(self.norm2(x_BND), self.embedding.weight), k, v


DECODER_DYNAMIC = {
    "ids": {0: "batch", 1: "chunk"},
    "past_k": {0: "batch", 2: "past"},
    "past_v": {0: "batch", 2: "past"},
}


def decoder_inputs(batch: int, chunk: int, past: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the decoder, with a cache of `past` tokens."""
    generator = torch.Generator().manual_seed(seed)
    cache = (batch, HEADS, past, HIDDEN // HEADS)
    return {
        "ids": torch.randint(0, MiniDecoder.VOCABULARY, (batch, chunk), generator=generator),
        "past_k": torch.randn(cache, generator=generator),
        "past_v": torch.randn(cache, generator=generator),
    }


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a size that makes every part matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            offset = 1.0 if parameter.ndim == 1 and parameter.abs().sum() == parameter.numel() else 0.0
            parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def images(batch: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch of random images."""
    return {"pixel_values": torch.randn((batch, *IMAGE), generator=torch.Generator().manual_seed(seed))}


def cell_inputs(batch: int, chunk: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the recurrent cell, with a state that has seen something."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn((batch, chunk, HIDDEN), generator=generator),
        "past_s": torch.rand((batch, HIDDEN, HIDDEN), generator=generator),
        "past_z": 1 + torch.rand((batch, HIDDEN, 1), generator=generator),
    }
