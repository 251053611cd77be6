"""Every kind of every part computes its equation, on the fast path and on the one that is exported."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.tiny import block_spec, images, logits, model_of, randomized
from torch import Tensor

from compress.model.activations import ACTIVATIONS
from compress.model.attention import ScoresSpec, ValuesSpec
from compress.model.block import BlockSpec
from compress.model.ffn import FfnSpec
from compress.model.mixer import MixerSpec
from compress.model.mixers.packed_attention import PackedAttentionSpec
from compress.model.norms import NormSpec
from compress.model.rope import RopeSpec
from compress.model.sequence import Context

LOOPS = 2
counts = st.integers(1, 3)


@st.composite
def values_specs(draw: st.DrawFn, heads: int, depth: int = 1) -> ValuesSpec:
    kind = draw(st.sampled_from(sorted(ValuesSpec.variants.keys() - ({"blended"} if not depth else set()))))
    if kind == "blended":
        parts = values_specs(heads, depth - 1)
        return ValuesSpec.parse({"kind": kind, "old": draw(parts), "new": draw(parts)})
    fields: dict[str, Any] = {
        "projected": {
            "num_kv_heads": draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
            "head_dim": draw(counts),
            "value_bias": draw(st.booleans()),
            "output_bias": draw(st.booleans()),
        },
        "gated-mean": {"projection": draw(st.booleans())},
        "diagonal-low-rank": {"rank": draw(counts)},
    }
    return ValuesSpec.parse({"kind": kind, **fields[kind]})


@st.composite
def scores_specs(draw: st.DrawFn) -> ScoresSpec:
    kind = draw(st.sampled_from(sorted(ScoresSpec.variants)))
    kv_heads, rope = draw(counts), draw(st.booleans())
    fields: dict[str, Any] = {
        "projected": {
            "num_heads": kv_heads * draw(st.integers(1, 2)),
            "num_kv_heads": kv_heads,
            "head_dim": draw(counts) * (2 if rope else 1),
            "scale": draw(st.sampled_from([1.0, 0.4])),
            "query_bias": draw(st.booleans()),
            "key_bias": draw(st.booleans()),
            "rope": {"theta": 100.0} if rope else None,
        },
        "merged": {"num_heads": kv_heads},
        "symmetric": {"num_heads": kv_heads, "head_dim": draw(counts)},
    }
    return ScoresSpec.parse({"kind": kind, **fields[kind]})


@st.composite
def mixer_specs(draw: st.DrawFn) -> MixerSpec:
    if draw(st.integers(0, 4)) == 0:
        kv_heads, rope = draw(counts), draw(st.booleans())
        return PackedAttentionSpec(
            num_heads=kv_heads * draw(st.integers(1, 2)),
            num_kv_heads=kv_heads,
            head_dim=draw(counts) * (2 if rope else 1),
            value_dim=draw(counts),
            scale=0.7,
            causal=draw(st.booleans()),
            rope=RopeSpec(theta=100.0) if rope else None,
            bias=draw(st.booleans()),
            output_bias=draw(st.booleans()),
        )
    scores = draw(scores_specs())
    values = draw(values_specs(scores.num_heads))
    return MixerSpec.parse(
        {"kind": "softmax-attention", "scores": scores, "values": values, "causal": draw(st.booleans())}
    )


ffn_specs = st.one_of(
    st.builds(
        lambda kind, size, activation, bias: {
            "kind": kind,
            "intermediate_size": size,
            "activation": activation,
            "bias": bias,
        },
        st.sampled_from(["mlp", "gated-mlp"]),
        counts,
        st.sampled_from(sorted(ACTIVATIONS)),
        st.booleans(),
    ),
    st.just({"kind": "affine"}),
    st.builds(lambda rank: {"kind": "low-rank-affine", "rank": rank}, counts),
    st.just({"kind": "constant"}),
).map(FfnSpec.parse)
norm_specs = st.builds(
    NormSpec,
    kind=st.sampled_from(["layer", "rms"]),
    eps=st.sampled_from([1e-6, 1e-2]),
    affine=st.booleans(),
    bias=st.booleans(),
)
tokens = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_random_buffers(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Signs of -1 and +1, shares between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        draw = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(draw.sub(0.5).sign() if "signs" in name else draw)
    return module


def is_visible(mask_BN: Tensor | None, sequence: int, causal: bool) -> Any:
    return lambda i, j: (not causal or j <= i) and (mask_BN is None or bool(mask_BN[sequence, j]))


def built(spec: Any, width: int, seed: int) -> Any:
    return with_random_buffers(randomized(spec.build(width, LOOPS), seed).double(), seed)


@pytest.mark.parametrize("exporting", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    spec=mixer_specs(),
    shape=tokens,
    masked=st.booleans(),
    rows=st.sampled_from([None, 1, 2]),
    loop=st.integers(0, LOOPS - 1),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_mixers_compute_their_equation(
    exporting: bool,
    spec: MixerSpec,
    shape: tuple[int, int, int],
    masked: bool,
    rows: int | None,
    loop: int,
    seed: int,
) -> None:
    mixer, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    mask_BN = random(*shape[:2], seed=seed + 1) > 0 if masked else None
    if mask_BN is not None:
        mask_BN[:, 0] = True
    with patch.object(torch.compiler, "is_exporting", return_value=exporting):
        y_BND = mixer(x_BND, loop, Context(mask_BN, rows=rows))
    weights = oracle.weights_of(mixer)
    if isinstance(spec, PackedAttentionSpec):
        plain, weights = oracle.unpacked(spec, weights)
    else:
        plain = spec
    for sequence, x_ND in enumerate(x_BND.numpy()):
        visible = is_visible(mask_BN, sequence, spec.causal)
        expected = oracle.attention(plain, weights, x_ND, visible, loop)[:rows]
        np.testing.assert_allclose(y_BND[sequence].numpy(), expected, atol=1e-6 if "theta" in str(spec) else 1e-9)


@settings(max_examples=60, deadline=None)
@given(spec=ffn_specs, shape=tokens, loop=st.integers(0, LOOPS - 1), seed=st.integers(0, 99))
@torch.no_grad()
def test_feed_forwards_compute_their_equation(spec: FfnSpec, shape: tuple[int, int, int], loop: int, seed: int) -> None:
    ffn, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    y_BND = ffn(x_BND, loop).expand(shape).numpy()
    for place in np.ndindex(*shape[:2]):
        expected = oracle.fed(spec, oracle.weights_of(ffn), x_BND.numpy()[place], loop)
        np.testing.assert_allclose(y_BND[place], expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(spec=norm_specs, shape=tokens, loop=st.integers(0, LOOPS - 1), seed=st.integers(0, 99))
@torch.no_grad()
def test_norms_compute_their_equation(spec: NormSpec, shape: tuple[int, int, int], loop: int, seed: int) -> None:
    norm, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    y_BND = norm(x_BND, loop).numpy()
    for place in np.ndindex(*shape[:2]):
        expected = oracle.normed(spec, oracle.weights_of(norm), x_BND.numpy()[place], loop)
        np.testing.assert_allclose(y_BND[place], expected, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    mixer=st.one_of(st.none(), mixer_specs()),
    ffn=st.one_of(st.none(), ffn_specs),
    norm=st.one_of(st.none(), norm_specs),
    residual=st.sampled_from(["pre", "post", "parallel"]),
    deltas=st.integers(0, 2),
    signals=st.integers(0, 2),
    timestep=st.booleans(),
    keep=st.sampled_from([None, 1, 3]),
    shape=tokens,
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_blocks_put_norms_and_residuals_where_they_say(
    mixer: MixerSpec | None,
    ffn: FfnSpec | None,
    norm: NormSpec | None,
    residual: str,
    deltas: int,
    signals: int,
    timestep: bool,
    keep: int | None,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    timestep = timestep and residual == "pre" and norm is not None and norm.affine
    spec = BlockSpec.model_validate(
        {
            "mixer": mixer,
            "mixer_norm": norm,
            "ffn": ffn,
            "ffn_norm": norm,
            "residual": residual,
            "loops": LOOPS,
            "per_loop": {"delta_rank": deltas, "signal_rank": signals, "timestep": timestep},
            "keep_tokens": keep,
        }
    )
    block = with_random_buffers(randomized(spec.build(shape[2]), seed).double(), seed)
    x_BND = random(*shape, seed=seed)
    y_BND, _ = block(x_BND, 1, Context())
    for sequence, x_ND in enumerate(x_BND.numpy()):
        visible = is_visible(None, sequence, mixer is not None and mixer.causal)
        expected = oracle.block(spec, oracle.weights_of(block), x_ND, visible, 1)
        np.testing.assert_allclose(y_BND[sequence].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_packed_attention_computes_what_separate_projections_compute() -> None:
    spec = block_spec(heads=4, kv_heads=2, head_dim=3, value_dim=2)
    separate = model_of(spec)
    packed_spec = PackedAttentionSpec(num_heads=4, num_kv_heads=2, head_dim=3, value_dim=2, scale=3**-0.5)
    packed = model_of(spec.replace(mixer=packed_spec))
    state = separate.state_dict()
    for part in ("weight", "bias.0"):
        names = [f"blocks.0.mixer.{name}.{part}" for name in ("scores.query", "scores.key", "values.value")]
        state[f"blocks.0.mixer.packed.{part}"] = torch.cat([state.pop(name) for name in names])
        state[f"blocks.0.mixer.output.{part}"] = state.pop(f"blocks.0.mixer.values.output.{part}")
    packed.load_state_dict(state)
    torch.testing.assert_close(logits(packed, images(packed)), logits(separate, images(separate)), atol=1e-12, rtol=0)


def test_an_exported_model_has_plain_products_and_the_same_logits() -> None:
    model = model_of(block_spec(), block_spec(heads=4, kv_heads=2, causal=True), pools=("cls", "distillation"))
    inputs = images(model)
    program = torch.export.export(model, (inputs,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("softmax" in name for name in names)
    assert not any("scaled_dot_product" in name for name in names)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(inputs), model(inputs), atol=1e-5, rtol=0)


@torch.no_grad()
def test_halves_of_two_precisions_blend_under_autocast() -> None:
    old, new = ({"kind": "projected", "num_kv_heads": 2, "head_dim": 5}, {"kind": "gated-mean", "projection": False})
    model = model_of(block_spec(values=ValuesSpec.parse({"kind": "blended", "old": old, "new": new})))
    exact = logits(model, images(model))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(model, images(model))
    torch.testing.assert_close(rounded.double(), exact.double(), atol=0.1, rtol=0.1)
