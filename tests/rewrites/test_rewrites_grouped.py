"""Heads that share keys and values: nothing is lost where they tell the same, else as little as one map allows.

T tokens, D hidden size, I = D + 1, H heads, K head size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.rewriting import calibration_of, moved, rewritten, seen
from support.text_models import decoder, plain_calibration, text_moved
from support.tiny import HIDDEN, block_spec, model_of

from compress.model import Transformer
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.block import BlockSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.projection import Projection
from compress.model.rope import RopeSpec
from compress.model.scores.projected import ProjectedScores
from compress.model.values.projected import ProjectedValues
from compress.rewrites.surgery import attention

#: Four heads of size 4, which two heads of keys and values may serve.
HEADS = {"heads": 4, "head_dim": 4}


def special(spec: BlockSpec, **changes: Any) -> BlockSpec:
    assert isinstance(spec.mixer, SoftmaxAttentionSpec)
    return spec.replace(mixer=spec.mixer.replace(**changes))


def turning(spec: BlockSpec, rope: RopeSpec) -> BlockSpec:
    assert isinstance(spec.mixer, SoftmaxAttentionSpec)
    return special(spec, scores=spec.mixer.scores.replace(rope=rope))


KINDS: dict[str, BlockSpec] = {
    "plain": block_spec(**HEADS),
    "no biases": block_spec(**HEADS, query_bias=False, key_bias=False, value_bias=False),
    "rotary": block_spec(**HEADS, rope=True),
    "partly rotary": turning(block_spec(**HEADS), RopeSpec(size=2)),
    "causal window": special(block_spec(**HEADS, rope=True, causal=True), window=2),
    "bias": special(block_spec(**HEADS), bias=BucketBiasSpec(buckets=8)),
    "cap": special(block_spec(**HEADS), cap=0.5),
}


def mixed(projection: Projection, by_HKK: np.ndarray) -> None:
    """Every pair of neighbouring heads becomes two mixtures of the first of them."""
    heads = len(by_HKK)
    with torch.no_grad():
        for tensor in (projection.weight, *projection.bias):
            parts = tensor.reshape(heads, by_HKK.shape[1], -1).double().numpy()
            twins = np.repeat(parts[::2], 2, axis=0)
            tensor.copy_(torch.from_numpy(by_HKK @ twins).reshape(tensor.shape))


def turns(rope: RopeSpec | None, draw: np.random.Generator) -> np.ndarray:
    """A map (K,K) that commutes with turning: any, without rotary positions."""
    free = draw.normal(size=(4, 4))
    if rope is None:
        return free
    size = rope.turned(4)
    free[:size], free[:, :size] = 0, 0
    for place in range(size // 2):
        a, b = draw.normal(size=2)
        pair = np.ix_([place, place + size // 2], [place, place + size // 2])
        free[pair] = [[a, -b], [b, a]]
    return free


@pytest.mark.parametrize("kind", KINDS)
def test_heads_that_tell_the_same_are_shared_without_loss(kind: str) -> None:
    model, draw = model_of(KINDS[kind], KINDS[kind]), np.random.default_rng(0)
    for block in (0, 1):
        mixer = attention(model.block(block))
        assert isinstance(mixer.scores, ProjectedScores) and isinstance(mixer.values, ProjectedValues)
        rope = mixer.scores.spec.rope
        assert rope is None or isinstance(rope, RopeSpec)
        mixed(mixer.scores.key, np.stack([turns(rope, draw) for _ in range(4)]))
        mixed(mixer.values.value, draw.normal(size=(4, 4, 4)))
    result = rewritten(model, "grouped-heads", calibration_of(model, batches=16), groups=2)
    assert moved(model, result) < 1e-4
    mixer = attention(result.block(0))
    assert mixer.scores.key_shape(HIDDEN) == (2, 4) and mixer.values.carried_shape(HIDDEN) == (2, 4)
    other = rewritten(model, "grouped-heads", groups=1)
    assert moved(model, other) > 1e-2


def test_as_many_groups_as_heads_change_nothing() -> None:
    model = model_of(block_spec(heads=4, kv_heads=2, head_dim=4))
    result = rewritten(model, "grouped-heads", groups=2)
    assert result.structure == model.structure and moved(model, result) == 0


def errors(model: Transformer, keys: np.ndarray, queries: np.ndarray, x_TD: np.ndarray) -> float:
    """Mean squared error of all pairs' logits without positions, for keys and queries (H,K,I) of each head."""
    mixer = attention(model.block(0))
    assert isinstance(mixer.scores, ProjectedScores)
    x_TI = np.concatenate([x_TD, np.ones((len(x_TD), 1))], axis=1)
    wanted = forms(mixer.scores)
    found = np.einsum("hki,hkj->hij", queries, keys)
    return float(np.mean([((x_TI @ (a - b) @ x_TI.T) ** 2).mean() for a, b in zip(wanted, found, strict=True)]))


def maps(projection: Projection, heads: int) -> np.ndarray:
    whole = torch.cat([projection.weight, projection.bias_or_zero()[:, None]], dim=1)
    return whole.detach().double().reshape(heads, -1, HIDDEN + 1).numpy()


def forms(scores: ProjectedScores) -> np.ndarray:
    spec = scores.spec
    keys = np.repeat(maps(scores.key, spec.num_kv_heads), spec.num_heads // spec.num_kv_heads, axis=0)
    return np.einsum("hki,hkj->hij", maps(scores.query, spec.num_heads), keys)


def test_shared_keys_have_the_least_error_of_the_logits_that_one_map_allows() -> None:
    """The optimum, from singular values of another formula, and the mean of the maps, which loses more."""
    model = model_of(block_spec(**HEADS))
    calibration = calibration_of(model)
    result = rewritten(model, "grouped-heads", calibration, groups=1)
    x_TD = seen(model, calibration, 0, "mixer.in").flatten(0, 1).numpy()
    new, old = attention(result.block(0)).scores, attention(model.block(0)).scores
    assert isinstance(new, ProjectedScores) and isinstance(old, ProjectedScores)
    keys, queries = maps(old.key, 4), maps(old.query, 4)
    x_TI = np.concatenate([x_TD, np.ones((len(x_TD), 1))], axis=1)
    second = x_TI.T @ x_TI / len(x_TI)
    lower = np.linalg.cholesky(second)
    stacked = np.concatenate([lower.T @ queries[h].T @ keys[h] @ lower for h in range(4)])
    least = float((np.linalg.svd(stacked, compute_uv=False)[4:] ** 2).sum()) / 4
    found = errors(model, np.repeat(maps(new.key, 1), 4, axis=0), maps(new.query, 4), x_TD)
    assert found == pytest.approx(least, rel=1e-3)
    assert errors(model, np.repeat(keys.mean(axis=0, keepdims=True), 4, axis=0), queries, x_TD) > 1.5 * found


def pooled(model: Transformer, like: Transformer) -> Transformer:
    """The mean of each group's keys and values, as Ainslie et al. start."""
    result = Transformer(like.structure).eval()
    state = {name: one.clone() for name, one in like.state_dict().items()}
    for name, tensor in model.state_dict().items():
        if name.endswith(("key.weight", "value.weight")):
            tensor = tensor.reshape(1, 4, 4, -1).mean(dim=1).reshape(4, -1)
        state[name] = tensor
    for name in state:
        if name.endswith("output.bias.0"):
            state[name] = torch.zeros_like(state[name])
    result.load_state_dict(state)
    return result


def test_a_decoder_moves_less_than_with_the_mean_of_the_maps_and_caches_less() -> None:
    model = decoder(heads=4, kv_heads=4)
    calibration = plain_calibration(model)
    result = rewritten(model, "grouped-heads", calibration, groups=1)
    assert text_moved(model, result) < 0.8 * text_moved(model, pooled(model, result))
    states = attention(result.block(0)).state_spec()
    assert states is not None and [one.shape[0] for one in states] == [1, 1]


def test_auto_takes_the_layer_whose_heads_tell_the_same() -> None:
    model, draw = model_of(KINDS["plain"], KINDS["plain"]), np.random.default_rng(0)
    mixer = attention(model.block(1))
    assert isinstance(mixer.scores, ProjectedScores) and isinstance(mixer.values, ProjectedValues)
    mixed(mixer.scores.key, draw.normal(size=(4, 4, 4)))
    mixed(mixer.values.value, draw.normal(size=(4, 4, 4)))
    result = rewritten(model, "grouped-heads", groups=2, layers="auto:1")
    assert [attention(result.block(place)).scores.key_shape(HIDDEN)[0] for place in (0, 1)] == [4, 2]
