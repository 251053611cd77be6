"""Mixers of linear cost: each computes its equation, the whole, in chunks and token by token, and ignores padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import linear_oracle, oracle
from support.tiny import randomized
from torch import Tensor

from compress.model.attention import ScoresSpec
from compress.model.linear.feature import FeatureMapSpec
from compress.model.mixer import Mixer, MixerSpec
from compress.model.rope import RopeSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.sequence import Context
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError

LOOPS = 2
counts = st.integers(1, 3)
feature_specs = st.one_of(
    st.just({"kind": "elu"}),
    st.just({"kind": "relu"}),
    st.builds(lambda size: {"kind": "t2r", "size": size}, counts),
    st.builds(lambda size: {"kind": "hedgehog", "size": size}, st.sampled_from([None, 2, 6])),
    st.builds(lambda size: {"kind": "performer", "size": size}, st.integers(1, 5)),
).map(FeatureMapSpec.parse)
GATED = ("gated-linear-attention", "gated-delta-rule")
RECURRENT = ("linear-attention", "windowed-linear-attention", "sumformer", *GATED)


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    """Scores with values for them: grouped heads, rotary positions and every other kind of scores."""
    groups, rope = draw(counts), draw(st.booleans())
    count = groups * draw(st.integers(1, 2))
    kind = draw(st.sampled_from(["projected", "projected", "merged", "symmetric"]))
    fields: dict[str, Any] = {
        "projected": {
            "num_kv_heads": groups,
            "head_dim": draw(counts) * (2 if rope else 1),
            "scale": draw(st.sampled_from([1.0, 0.4])),
            "rope": {"theta": 100.0} if rope else None,
        },
        "merged": {},
        "symmetric": {"head_dim": draw(counts)},
    }
    carriers = {"projected": groups, "merged": 1, "symmetric": count}[kind]
    return {
        "scores": ScoresSpec.parse({"kind": kind, "num_heads": count, **fields[kind]}),
        "values": ProjectedValuesSpec(num_kv_heads=carriers, head_dim=draw(counts), value_bias=draw(st.booleans())),
    }


@st.composite
def specs(draw: st.DrawFn, causal: bool | None = None) -> MixerSpec:
    kind = draw(st.sampled_from(RECURRENT))
    looks_back = draw(st.booleans()) if causal is None else causal
    if kind == "sumformer":
        sizes = {"summary_size": draw(counts), "intermediate_size": draw(counts)}
        return MixerSpec.parse({"kind": kind, "causal": looks_back, **sizes})
    spec = {"kind": kind, "feature": draw(feature_specs), "balance": draw(st.sampled_from([1.0, 1.7]))}
    rest: dict[str, Any] = {
        "linear-attention": {"causal": looks_back},
        "windowed-linear-attention": {"window": draw(st.integers(1, 4))},
    }.get(kind, {})
    return MixerSpec.parse({**spec, **rest, **draw(heads())})


def built(spec: MixerSpec, width: int, seed: int) -> Mixer:
    mixer = randomized(spec.build(width, LOOPS).double(), seed)
    generator = torch.Generator().manual_seed(seed)
    for buffer in mixer.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
    assert isinstance(mixer, Mixer)
    return mixer


def is_causal(spec: Any) -> bool:
    return spec.kind in ("windowed-linear-attention", *GATED) or bool(spec.causal)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded_in_front(batch: int, tokens: int, seed: int) -> Tensor:
    """Masks (B,N) whose sequences begin at different places; the first is whole."""
    starts_B = torch.randint(tokens, (batch,), generator=torch.Generator().manual_seed(seed))
    starts_B[0] = 0
    return torch.arange(tokens) >= starts_B[:, None]


def fresh(mixer: Mixer, batch: int) -> tuple[Tensor, ...]:
    specs = mixer.state_spec()
    assert specs is not None
    return tuple(torch.zeros(batch, *spec.shape, dtype=torch.float64) for spec in specs)  # type: ignore[arg-type]


def in_chunks(mixer: Mixer, x_BND: Tensor, sizes: list[int], mask_BN: Tensor | None, loop: int) -> Tensor:
    state, parts, start = fresh(mixer, len(x_BND)), [], 0
    for size in sizes:
        span = slice(start, start + size)
        places_BN = torch.arange(x_BND.shape[1])[None, span]
        mask = None if mask_BN is None else mask_BN[:, span]
        y_BND, state = mixer.chunk(x_BND[:, span], state, loop, Context(mask, places_BN))
        parts.append(y_BND)
        start += size
    return torch.cat(parts, dim=1)


def expectation(spec: Any, w: Any, x_ND: Any, real: list[bool], loop: int) -> Any:
    """What the oracle gives for one sequence."""
    if spec.kind in GATED:
        return linear_oracle.gated(spec, w, x_ND, real, loop)
    expect = linear_oracle.sumformer if spec.kind == "sumformer" else linear_oracle.linear_attention
    return expect(spec, w, x_ND, lambda i, j: real[j] and (j <= i or not is_causal(spec)), loop)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 6))


@settings(max_examples=80, deadline=None)
@given(
    spec=specs(),
    shape=shapes,
    masked=st.booleans(),
    rows=st.sampled_from([None, 1, 2]),
    loop=st.integers(0, LOOPS - 1),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_mixers_of_linear_cost_compute_their_equation(
    spec: Any, shape: tuple[int, int, int], masked: bool, rows: int | None, loop: int, seed: int
) -> None:
    mixer, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    mask_BN = padded_in_front(*shape[:2], seed) if masked else None
    y_BND = mixer(x_BND, loop, Context(mask_BN, rows=rows))
    for sequence, x_ND in enumerate(x_BND.numpy()):
        real = [True] * shape[1] if mask_BN is None else mask_BN[sequence].tolist()
        expected = expectation(spec, oracle.weights_of(mixer), x_ND, real, loop)
        atol = 1e-5 if "theta" in str(spec) else 1e-8
        np.testing.assert_allclose(y_BND[sequence].numpy(), expected[:rows], atol=atol, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    spec=specs(causal=True),
    width=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    masked=st.booleans(),
    loop=st.integers(0, LOOPS - 1),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_whole_chunks_and_single_steps_give_the_same(
    spec: MixerSpec, width: int, sizes: list[int], masked: bool, loop: int, seed: int
) -> None:
    mixer, tokens = built(spec, width, seed), sum(sizes)
    x_BND = random(2, tokens, width, seed=seed)
    mask_BN = padded_in_front(2, tokens, seed) if masked else None
    whole_BND = mixer(x_BND, loop, Context(mask_BN))
    for given_BND in (
        in_chunks(mixer, x_BND, sizes, mask_BN, loop),
        in_chunks(mixer, x_BND, [1] * tokens, mask_BN, loop),
    ):
        torch.testing.assert_close(given_BND, whole_BND, atol=1e-9, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(spec=specs(), shape=shapes, padding=st.integers(1, 4), seed=st.integers(0, 99))
@torch.no_grad()
def test_padding_in_front_changes_no_real_token(
    spec: MixerSpec, shape: tuple[int, int, int], padding: int, seed: int
) -> None:
    mixer, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    padded_BND = torch.cat([random(shape[0], padding, shape[2], seed=seed + 1), x_BND], dim=1)
    real_BN = (torch.arange(padded_BND.shape[1]) >= padding).expand(shape[0], -1)
    places_BN = (real_BN.cumsum(dim=1) - 1).clamp(min=0)
    given_BND = mixer(padded_BND, 0, Context(real_BN, places_BN))[:, padding:]
    torch.testing.assert_close(given_BND, mixer(x_BND, 0, Context()), atol=1e-9, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    spec=specs().filter(lambda spec: spec.kind not in ("sumformer", "gated-delta-rule")),
    shape=shapes,
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_attention_rows_give_the_output(spec: Any, shape: tuple[int, int, int], seed: int) -> None:
    mixer, x_BND = built(spec, shape[2], seed), random(*shape, seed=seed)
    rows_BHNN = mixer.attention(x_BND, 0, Context())
    v_BGNV = mixer.values.carry(x_BND, 0)
    v_BHNV = v_BGNV.repeat_interleave(rows_BHNN.shape[1] // v_BGNV.shape[1], dim=1)
    given_BND = mixer.values.combine(rows_BHNN @ v_BHNV, 0)
    torch.testing.assert_close(given_BND, mixer(x_BND, 0, Context()), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("tokens", [64, 65, 200])
@pytest.mark.parametrize("kind", ["linear-attention", "windowed-linear-attention", *GATED])
@torch.no_grad()
def test_sequences_of_many_spans_give_what_single_steps_give(kind: str, tokens: int) -> None:
    spec = MixerSpec.parse(
        {
            "kind": kind,
            "feature": {"kind": "hedgehog"},
            "scores": ProjectedScoresSpec(num_heads=4, num_kv_heads=2, head_dim=4, scale=0.5, rope=RopeSpec()),
            "values": ProjectedValuesSpec(num_kv_heads=2, head_dim=3),
            **{"linear-attention": {"causal": True}, "windowed-linear-attention": {"window": 9}}.get(kind, {}),
        }
    )
    mixer, x_BND = built(spec, 5, 0), random(2, tokens, 5, seed=0)
    mask_BN = padded_in_front(2, tokens, 1)
    given_BND = in_chunks(mixer, x_BND, [1] * tokens, mask_BN, 1)
    torch.testing.assert_close(mixer(x_BND, 1, Context(mask_BN)), given_BND, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("more", [-1, 0, 1, 2])
@pytest.mark.parametrize("window", [2, 3, 8])
@torch.no_grad()
def test_the_window_of_the_hybrid_ends_exactly_where_the_oracles_does(window: int, more: int) -> None:
    spec: Any = MixerSpec.parse(
        {
            "kind": "windowed-linear-attention",
            "feature": {"kind": "elu"},
            "scores": ProjectedScoresSpec(num_heads=2, num_kv_heads=1, head_dim=3, scale=0.8),
            "values": ProjectedValuesSpec(num_kv_heads=1, head_dim=2),
            "window": window,
        }
    )
    tokens = window + more
    mixer, x_BND = built(spec, 5, window), random(1, tokens, 5, seed=more + 1)
    weights, real = oracle.weights_of(mixer), [True] * tokens
    expected_ND = expectation(spec, weights, x_BND[0].numpy(), real, 0)
    cuts = ([1] * tokens, [tokens - 1, 1], [1, tokens - 1])
    chunked = [in_chunks(mixer, x_BND, [size for size in sizes if size], None, 0) for sizes in cuts]
    for given_BND in (mixer(x_BND, 0, Context()), *chunked):
        np.testing.assert_allclose(given_BND[0].numpy(), expected_ND, atol=1e-12, rtol=1e-12)
    for other in (window - 1, window + 1):  # a window of another size would be seen as soon as it differs
        moved_ND = expectation(spec.replace(window=other), weights, x_BND[0].numpy(), real, 0)
        assert np.allclose(moved_ND, expected_ND, atol=1e-6) == (tokens <= min(window, other))


def linformer(length: int, pools: int, groups: int = 2, seed: int = 0) -> tuple[MixerSpec, Mixer]:
    spec = MixerSpec.parse(
        {
            "kind": "linformer",
            "scores": ProjectedScoresSpec(num_heads=2 * groups, num_kv_heads=groups, head_dim=3, scale=0.6),
            "values": ProjectedValuesSpec(num_kv_heads=groups, head_dim=2),
            "length": length,
            "pools": pools,
        }
    )
    return spec, built(spec, 5, seed)


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(2, 7),
    shorter=st.integers(0, 3),
    pools=counts,
    groups=st.integers(1, 2),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_linformer_computes_its_equation(
    length: int, shorter: int, pools: int, groups: int, masked: bool, seed: int
) -> None:
    spec, mixer = linformer(length, pools, groups, seed)
    x_BND = random(2, max(1, length - shorter), 5, seed=seed)
    mask_BN = padded_in_front(*x_BND.shape[:2], seed) if masked else None
    y_BND = mixer(x_BND, 1, Context(mask_BN))
    for sequence, x_ND in enumerate(x_BND.numpy()):
        real = [True] * len(x_ND) if mask_BN is None else mask_BN[sequence].tolist()
        expected = linear_oracle.linformer(spec, oracle.weights_of(mixer), x_ND, real, 1)
        np.testing.assert_allclose(y_BND[sequence].numpy(), expected, atol=1e-8, rtol=1e-6)


def test_linformer_refuses_what_is_longer_than_its_pools() -> None:
    _, mixer = linformer(4, 2)
    with pytest.raises(InputError, match="5 tokens is longer than the 4"):
        mixer(random(1, 5, 5, seed=0), 0, Context())


@torch.no_grad()
def test_keys_beyond_the_bound_of_performer_stay_finite() -> None:
    spec = FeatureMapSpec.parse({"kind": "performer", "size": 4})
    feature = spec.build(1, 1, 2)
    feature.initialize(torch.Generator().manual_seed(0))
    feature.see_keys(torch.zeros(1, 1, 1, 2))
    far = feature.key(1000 * torch.ones(1, 1, 1, 2))
    assert bool(torch.isfinite(far).all())


@torch.no_grad()
def test_features_of_performer_estimate_the_exponential() -> None:
    feature = FeatureMapSpec.parse({"kind": "performer", "size": 4096}).build(1, 1, 8)
    feature.initialize(torch.Generator().manual_seed(0))
    q_BHNK, k_BGNK = 0.3 * random(1, 1, 20, 8, seed=1).float(), 0.3 * random(1, 1, 30, 8, seed=2).float()
    feature.see_keys(k_BGNK)
    products = feature.query(q_BHNK) @ feature.key(k_BGNK).transpose(-1, -2)
    given_ = products / products.sum(dim=-1, keepdim=True)
    expected = (q_BHNK @ k_BGNK.transpose(-1, -2)).softmax(dim=-1)
    torch.testing.assert_close(given_, expected, atol=0.005, rtol=0.1)
