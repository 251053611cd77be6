"""Rewrites that put another mixer in place of attention: what they keep, what they start from, what they refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rewriting import calibration_of, moved, rewritten, seen
from support.streams import decoder, streamed
from support.tiny import block_spec, model_of
from torch import Tensor

from compress.model import Transformer
from compress.model.linear.gated import GatedMixer
from compress.model.mixers.linear_attention import LinearAttention
from compress.model.mixers.linformer import Linformer
from compress.model.mixers.sumformer import Sumformer
from compress.model.mixers.windowed_linear_attention import WindowedLinearAttention
from compress.model.sequence import Context
from compress.rewrites import Calibration
from targets.errors import InputError

FEATURES = ("elu", "t2r", "hedgehog", "performer")


def text_calibration(model: Transformer, notes: list[str] | None = None) -> Calibration:
    generator = torch.Generator().manual_seed(5)
    inputs = [{"input_ids": torch.randint(11, (4, 20), generator=generator)} for _ in range(3)]
    return Calibration(original=model, batches=lambda: iter(inputs), note=([] if notes is None else notes).append)


def text_model(*blocks: Any) -> Transformer:
    return decoder(*(blocks or (block_spec(heads=4, kv_heads=2, head_dim=4, causal=True, rope=True),) * 2)).float()


@pytest.mark.parametrize("feature", FEATURES)
def test_queries_keys_and_values_keep_their_weights(feature: str) -> None:
    model = model_of(block_spec(heads=4, kv_heads=2), block_spec())
    result = rewritten(model, "linear-attention", feature=feature, layers=[0])
    mixer = result.block(0).mixer
    assert isinstance(mixer, LinearAttention) and not mixer.spec.causal
    old, new = model.state_dict(), result.state_dict()
    kept = [name for name in old if name.startswith("blocks.0.mixer.")]
    assert len(kept) == 8 and all(torch.equal(old[name], new[name]) for name in kept)
    assert type(result.block(1).mixer) is type(model.block(1).mixer)


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 2),
    groups=st.integers(1, 2),
    size=st.integers(1, 6),
    head_dim=st.integers(1, 5),
    query_bias=st.booleans(),
)
def test_folding_the_feature_map_changes_no_logit(
    heads: int, groups: int, size: int, head_dim: int, query_bias: bool
) -> None:
    spec = block_spec(heads=heads * groups, kv_heads=groups, head_dim=head_dim, query_bias=query_bias)
    linear = rewritten(model_of(spec), "linear-attention", feature="t2r", size=size)
    folded = rewritten(linear, "fold-feature-map")
    assert not any("feature" in name for name in folded.state_dict())
    assert moved(linear, folded) < 1e-5


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([block_spec()], "no layer has linear attention with a t2r feature map"),
        ([block_spec(rope=True, head_dim=4)], "under rotary positions"),
    ],
)
def test_folding_is_refused_where_there_is_nothing_to_fold_into(blocks: list[Any], reason: str) -> None:
    model = model_of(*blocks)
    if "rotary" in reason:
        model = rewritten(model, "linear-attention", feature="t2r")
    with pytest.raises(InputError, match=reason):
        rewritten(model, "fold-feature-map")


def test_a_performer_with_many_features_comes_close_to_softmax() -> None:
    model = model_of(block_spec(), block_spec())
    model.block(0).mixer.scores.query.weight.data *= 0.3  # type: ignore[union-attr]
    errors = []
    for size in (4, 4096):
        notes: list[str] = []
        rewritten(
            model, "linear-attention", calibration_of(model, notes=notes), feature="performer", size=size, layers=[0]
        )
        errors.append(float(notes[0].split("with ")[1].split("%")[0]))
    assert errors[1] < 5 and 5 * errors[1] < errors[0]


def test_a_window_as_long_as_the_sequence_is_softmax_attention() -> None:
    model = text_model()
    result = rewritten(model, "hybrid", text_calibration(model), window=20)
    assert isinstance(result.block(0).mixer, WindowedLinearAttention)
    (inputs, *_) = text_calibration(model).batches()
    with torch.no_grad():
        torch.testing.assert_close(result(inputs), model(inputs), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_window_starts_with_the_share_of_attention_that_it_had() -> None:
    model = text_model()
    calibration = text_calibration(model)
    result = rewritten(model, "hybrid", calibration, window=3, layers=[0])
    new, old = result.block(0).mixer, model.block(0).mixer
    assert isinstance(new, WindowedLinearAttention) and old is not None
    odds = []
    for inputs in calibration.batches():
        x_BND, context = model.embed(inputs)
        seen_BND = model.block(0).mixed(x_BND, 0, context)["mixer.in"].x_BND
        before = [each.attention(seen_BND, 0, context).tril(diagonal=-3).sum(dim=-1)[:, :, 3:] for each in (new, old)]
        odds.append(torch.logit(before[0], eps=1e-4) - torch.logit(before[1], eps=1e-4))
    torch.testing.assert_close(torch.cat(odds).mean(dim=(0, 2)), torch.zeros(4), atol=1e-3, rtol=0)


def test_auto_takes_the_layer_that_loses_least() -> None:
    near, far = block_spec(causal=True), block_spec(causal=True)
    model = text_model(far, near)
    scores = model.block(1).mixer.scores  # type: ignore[union-attr]
    scores.query.weight.data *= 0.01
    for bias in scores.query.bias:
        bias.data *= 0.01
    result = rewritten(model, "linear-attention", text_calibration(model), feature="hedgehog", layers="auto:1")
    kinds = [type(result.block(index).mixer).__name__ for index in range(2)]
    assert kinds == ["SoftmaxAttention", "LinearAttention"]


@pytest.mark.parametrize(
    ("use", "options"),
    [("hybrid", {"window": 3}), ("linear-attention", {"feature": "t2r"}), ("gated-delta-rule", {"feature": "elu"})],
)
def test_what_auto_tried_is_what_it_takes(use: str, options: dict[str, Any]) -> None:
    """The same model as by the layer's number, without another pass over the calibration."""
    model = text_model()
    calibration, passes = text_calibration(model), Counter[str]()

    def made(layers: Any) -> Transformer:
        def batches() -> Iterator[dict[str, Tensor]]:
            passes[str(layers)] += 1
            return calibration.batches()

        return rewritten(model, use, replace(calibration, batches=batches), layers=layers, **options)

    chosen, named = made("auto:1"), [made([0]), made([1])]
    (same,) = [one for one in named if one.structure == chosen.structure]
    assert all(torch.equal(tensor, chosen.state_dict()[name]) for name, tensor in same.state_dict().items())
    assert len(set(passes.values())) == 1


@torch.no_grad()
def test_gates_that_forget_nothing_give_linear_attention() -> None:
    model = text_model()
    gated, plain = (
        rewritten(model, use, text_calibration(model), feature="hedgehog", layers=[0])
        for use in ("gated-linear-attention", "linear-attention")
    )
    (inputs, *_) = text_calibration(model).batches()
    start = float((gated(inputs) - plain(inputs)).abs().max())
    mixer = gated.block(0).mixer
    assert isinstance(mixer, GatedMixer)
    for bias in mixer.gate.bias:
        bias.fill_(-40)
    open_ = float((gated(inputs) - plain(inputs)).abs().max())
    assert open_ < 1e-5 < start < 0.1


@torch.no_grad()
def test_softmax_and_linear_layers_stream_side_by_side() -> None:
    model = text_model()
    linear = rewritten(model, "hybrid", text_calibration(model), window=3, layers=[1])
    ids_BN = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(0))
    mask_BN = torch.ones_like(ids_BN)
    given_BNV = streamed(linear.double(), ids_BN, mask_BN, [1, 4, 2])
    torch.testing.assert_close(given_BNV, linear({"input_ids": ids_BN}), atol=1e-9, rtol=0)


@torch.no_grad()
def test_pools_of_equal_tokens_are_exact() -> None:
    model = model_of(block_spec())
    result = rewritten(model, "linformer", pools=2)
    mixer, old = result.block(0).mixer, model.block(0).mixer
    assert isinstance(mixer, Linformer) and old is not None
    assert mixer.offset_P.exp().tolist() == pytest.approx([1, 2, 2])
    x_BND = torch.randn(3, 3, 12, generator=torch.Generator().manual_seed(0))
    pools_L = mixer.key_LP.argmax(dim=1)
    equal_BLD = x_BND[:, pools_L]
    torch.testing.assert_close(mixer(equal_BLD, 0, Context()), old(equal_BLD, 0, Context()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("use", "options", "reason"),
    [
        ("linformer", {"pools": 2}, "refused for a causal layer: its pools mix tokens with those that follow"),
        ("linformer", {"pools": 32}, "32 pools for 32 tokens would save nothing"),
        ("sumformer", {"summary_size": 13}, "summary_size 13 is above the hidden size 12"),
    ],
)
def test_what_cannot_work_on_text_is_refused_with_a_reason(use: str, options: dict[str, Any], reason: str) -> None:
    model = text_model()
    with pytest.raises(InputError, match=reason):
        rewritten(model, use, text_calibration(model), **options)


@pytest.mark.parametrize(
    ("use", "options", "reason"),
    [
        ("hybrid", {}, "refused for a layer that looks ahead"),
        (
            "gated-delta-rule",
            {"feature": "elu"},
            "refused for a layer that looks ahead: its state holds what came before",
        ),
        ("linformer", {"pools": 3}, "2 x 2 patches do not divide into a grid of 3 pools"),
        ("linformer", {"pools": 2, "length": 5}, "length is for text"),
        ("linear-attention", {"feature": "elo"}, "unknown kind 'elo'; did you mean 'elu'"),
        ("linear-attention", {"feature": "elu", "size": 4}, "unknown key 'size'"),
    ],
)
def test_what_cannot_work_on_images_is_refused_with_a_reason(use: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        rewritten(model_of(block_spec()), use, **options)


def test_pools_for_fewer_tokens_than_the_texts_have_are_refused() -> None:
    model = text_model(block_spec(), block_spec())
    model.structure = model.structure.replace(preprocessing={"kind": "text", "vocab_size": 11, "max_length": 24})
    result = rewritten(model, "linformer", text_calibration(model), pools=4)
    mixer = result.block(0).mixer
    assert isinstance(mixer, Linformer) and mixer.spec.length == 24
    with pytest.raises(InputError, match="texts may have 24 tokens, more than length = 20"):
        rewritten(model, "linformer", text_calibration(model), pools=4, length=20)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_sumformer_starts_at_the_least_squares_answer_to_the_mean(causal: bool) -> None:
    model = model_of(block_spec(causal=causal))
    calibration = calibration_of(model)
    result = rewritten(model, "sumformer", calibration, summary_size=12, intermediate_size=3)
    mixer = result.block(0).mixer
    assert isinstance(mixer, Sumformer)
    x_BND, target_BND = (seen(model, calibration, 0, site) for site in ("mixer.in", "mixer.out"))
    mean_BND = x_BND.mean(dim=1, keepdim=True).expand_as(x_BND)
    if causal:
        mean_BND = x_BND.cumsum(dim=1) / torch.arange(1, x_BND.shape[1] + 1)[:, None]
    ones = torch.ones_like(x_BND[..., :1])
    regressors = torch.cat([x_BND, mean_BND, ones], dim=-1).flatten(0, 1)
    # The driver that torch takes by itself gives other digits from one call to the next where columns depend on others.
    solved = torch.linalg.lstsq(regressors, target_BND.flatten(0, 1), rcond=1e-5, driver="gelsd")
    fit = regressors @ solved.solution
    given_BND = mixer(x_BND.float(), 0, Context())
    torch.testing.assert_close(given_BND.flatten(0, 1).double(), fit, atol=2e-3, rtol=0)
