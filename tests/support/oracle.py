"""The parts of the model written again from their equations: numpy, float64, one sequence, head and query at a time.

`w` maps names to arrays. N tokens, D hidden size, K query/key size, V value size, R rank; h heads, g key/value heads,
i queries, j keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erf

from compress.model.attention import ScoresSpec, ValuesSpec
from compress.model.block import BlockSpec
from compress.model.ffn import FfnSpec
from compress.model.mixers.packed_attention import PackedAttentionSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec

Array = np.ndarray
Weights = dict[str, Array]


def weights_of(module: Any) -> Weights:
    """The weights of a module as float64 arrays."""
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def under(w: Weights, prefix: str) -> Weights:
    """The weights of a part, by their names in it."""
    return {name.removeprefix(f"{prefix}."): array for name, array in w.items() if name.startswith(f"{prefix}.")}


def weight(w: Weights, loop: int) -> Array:
    """W with the delta of a loop."""
    if f"delta_up.{loop}" not in w:
        return w["weight"]
    return w["weight"] + w[f"delta_up.{loop}"] @ w[f"delta_down.{loop}"]


def linear(w: Weights, x_I: Array, loop: int) -> Array:
    """y_o = sum_i W_oi x_i + b_o, with the delta and the bias of a loop."""
    return weight(w, loop) @ x_I + w.get(f"bias.{loop}", 0.0)


def turned(x_K: Array, position: int, theta: float) -> Array:
    """Rotary positions as multiplication of complex numbers."""
    half = len(x_K) // 2
    pairs = x_K[:half] + 1j * x_K[half:]
    pairs = pairs * np.exp([1j * position * theta ** (-2 * m / len(x_K)) for m in range(half)])
    return np.concatenate([pairs.real, pairs.imag])


def head(x: Array, index: int, size: int) -> Array:
    return x[index * size : (index + 1) * size]


def logit(spec: Any, w: Weights, x_ND: Array, h: int, i: int, j: int, loop: int) -> float:
    """What softmax sees for query i and key j of head h."""
    if spec.kind == "projected":
        g, size = h // (spec.num_heads // spec.num_kv_heads), spec.head_dim
        query = head(linear(under(w, "query"), x_ND[i], loop), h, size)
        key = head(linear(under(w, "key"), x_ND[j], loop), g, size)
        if spec.rope is not None:
            query, key = turned(query, i, spec.rope.theta), turned(key, j, spec.rope.theta)
        return spec.scale * float(query @ key)
    if spec.kind == "merged":
        return float(head(linear(under(w, "query"), x_ND[i], loop), h, x_ND.shape[1]) @ x_ND[j])
    assert spec.kind == "symmetric"
    u, v = (head(linear(under(w, "shared"), x_ND[token], loop), h, spec.head_dim) for token in (i, j))
    return float((u * w["signs_HK"][h] + w[f"offset.{loop}"][h]) @ v)


def attention_row(logits: dict[int, float]) -> dict[int, float]:
    """Softmax over the visible keys."""
    top = max(logits.values())
    powers = {j: math.exp(value - top) for j, value in logits.items()}
    return {j: power / sum(powers.values()) for j, power in powers.items()}


def carried(spec: Any, w: Weights, x_ND: Array, rows: list[dict[int, float]], loop: int) -> Array:
    """The output (D,) for one query, whose attention row in each head is given."""
    heads, width = len(rows), x_ND.shape[1]
    if spec.kind == "blended":
        old, new = (carried(getattr(spec, part), under(w, part), x_ND, rows, loop) for part in ("old", "new"))
        return (1 - w["share"]) * old + w["share"] * new
    seen_HD = np.array([sum(p * x_ND[j] for j, p in row.items()) for row in rows])
    if spec.kind == "gated-mean":
        gates = w.get(f"gates.{loop}", np.ones(heads))
        z_D = sum(gates[h] * seen_HD[h] for h in range(heads))
        return linear(under(w, "output"), z_D, loop) if spec.projection else z_D + w[f"offset.{loop}"]
    output = under(w, "output")
    y_D = np.zeros(width) + output.get(f"bias.{loop}", 0.0)
    for h in range(heads):
        if spec.kind == "diagonal-low-rank":
            y_D = y_D + w[f"gates.{loop}"][h] * seen_HD[h]
            value = head(linear(under(w, "value"), seen_HD[h], loop), h, spec.rank)
            size = spec.rank
        else:
            assert spec.kind == "projected"
            g, size = h // (heads // spec.num_kv_heads), spec.head_dim
            value = sum(p * head(linear(under(w, "value"), x_ND[j], loop), g, size) for j, p in rows[h].items())
        y_D = y_D + head(weight(output, loop).T, h, size).T @ value
    return y_D


def attention(
    spec: SoftmaxAttentionSpec, w: Weights, x_ND: Array, visible: Callable[[int, int], bool], loop: int
) -> Array:
    """Softmax attention over one sequence (N,D); `visible(i, j)`: query i may look at key j."""
    scores, values = under(w, "scores"), under(w, "values")
    tokens = range(len(x_ND))
    return np.array(
        [
            carried(
                spec.values,
                values,
                x_ND,
                [
                    attention_row({j: logit(spec.scores, scores, x_ND, h, i, j, loop) for j in tokens if visible(i, j)})
                    for h in range(spec.scores.num_heads)
                ],
                loop,
            )
            for i in tokens
        ]
    )


def unpacked(spec: PackedAttentionSpec, w: Weights) -> tuple[SoftmaxAttentionSpec, Weights]:
    """Separate queries, keys and values that compute the same."""
    cuts = np.cumsum(spec.widths)[:2]
    parts: Weights = {}
    for name, array in under(w, "packed").items():
        pieces = [array] * 3 if name.startswith("delta_down") else np.split(array, cuts)
        named = zip(("scores.query", "scores.key", "values.value"), pieces, strict=True)
        parts |= {f"{part}.{name}": piece for part, piece in named}
    parts |= {f"values.output.{name}": array for name, array in under(w, "output").items()}
    counts = {"num_heads": spec.num_heads, "num_kv_heads": spec.num_kv_heads}
    sizes = {"head_dim": spec.head_dim, "scale": spec.scale, "rope": spec.rope}
    return SoftmaxAttentionSpec(
        scores=ScoresSpec.parse({"kind": "projected", **counts, **sizes}),
        values=ValuesSpec.parse({"kind": "projected", "num_kv_heads": spec.num_kv_heads, "head_dim": spec.value_dim}),
    ), parts


def activated(name: str, x: Array) -> Array:
    """Activations from their definitions."""
    if name == "relu":
        return np.where(x > 0, x, 0.0)
    if name == "gelu":
        return x * (1 + erf(x / math.sqrt(2))) / 2
    if name == "tanh":
        return 1 - 2 / (np.exp(2 * x) + 1)
    if name in ("silu", "swish"):
        return x / (1 + np.exp(-x))
    if name == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    assert name in ("gelu_new", "gelu_pytorch_tanh")
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def fed(spec: FfnSpec | Any, w: Weights, x_D: Array, loop: int) -> Array:
    """A feed-forward on one token."""
    if spec.kind == "constant":
        return w[f"value.{loop}"]
    if spec.kind == "affine":
        return linear(under(w, "map"), x_D, loop)
    if spec.kind == "low-rank-affine":
        return linear(under(w, "up"), linear(under(w, "down"), x_D, loop), loop)
    if spec.kind == "gated-mlp":
        gate_F = activated(spec.activation, linear(under(w, "gate"), x_D, loop))
        hidden_F = normed(spec.norm, under(w, "norm"), gate_F * linear(under(w, "up"), x_D, loop), loop)
        return linear(under(w, "down"), hidden_F, loop)
    assert spec.kind == "mlp"
    return linear(under(w, "down"), activated(spec.activation, linear(under(w, "up"), x_D, loop)), loop)


def normed(spec: NormSpec | None, w: Weights, x_D: Array, loop: int) -> Array:
    """Layer or RMS normalization of one token."""
    if spec is None:
        return x_D
    centred = x_D - x_D.mean() if spec.kind == "layer" else x_D
    plain = centred / math.sqrt((centred**2).mean() + spec.eps)
    return plain * w.get(f"weight.{loop}", 1.0) + w.get(f"bias.{loop}", 0.0)


def block(spec: BlockSpec, w: Weights, x_ND: Array, visible: Callable[[int, int], bool], loop: int) -> Array:
    """A whole block on one sequence."""

    def mixed(x_ND: Array) -> Array:
        mixer, parts = spec.mixer, under(w, "mixer")
        if mixer is None:
            return np.zeros_like(x_ND)
        if isinstance(mixer, PackedAttentionSpec):
            mixer, parts = unpacked(mixer, parts)
        assert isinstance(mixer, SoftmaxAttentionSpec)
        return attention(mixer, parts, x_ND, visible, loop) * w.get(f"mixer_gain.value.{loop}", 1.0)

    def fed_all(x_ND: Array) -> Array:
        if spec.ffn is None:
            return np.zeros_like(x_ND)
        if f"ffn_signal.down.{loop}" in w:
            x_ND = x_ND + x_ND @ (w[f"ffn_signal.up.{loop}"] @ w[f"ffn_signal.down.{loop}"]).T
        y_ND = np.array([fed(spec.ffn, under(w, "ffn"), x_D, loop) for x_D in x_ND])
        return y_ND * w.get(f"ffn_gain.value.{loop}", 1.0)

    def normed_all(which: str, x_ND: Array) -> Array:
        return np.array([normed(getattr(spec, which), under(w, which), x_D, loop) for x_D in x_ND])

    if spec.residual == "post":
        x_ND = normed_all("mixer_norm", x_ND + mixed(x_ND))
        y_ND = normed_all("ffn_norm", x_ND + fed_all(x_ND))
    elif spec.residual == "parallel":
        y_ND = x_ND + mixed(normed_all("mixer_norm", x_ND)) + fed_all(normed_all("ffn_norm", x_ND))
    else:
        x_ND = x_ND + mixed(normed_all("mixer_norm", x_ND))
        y_ND = x_ND + fed_all(normed_all("ffn_norm", x_ND))
    return y_ND[: spec.leading]
