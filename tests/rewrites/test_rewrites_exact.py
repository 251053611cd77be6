"""Rewrites that are called exact move no logit beyond rounding, on random models and on trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rewriting import calibration_of, moved, rewritten
from support.tiny import block_spec, model_of

from compress.data import load, preprocessing_from_hf
from compress.model import Transformer
from compress.model.block import BlockSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.affine import AffineSpec, ConstantSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.mixers.packed_attention import PackedAttentionSpec
from compress.model.norms import NormSpec
from compress.rewrites import REWRITES, Calibration
from compress.tasks import read_checkpoint
from compress.zoo import FOLDER
from targets.errors import InputError

EXACT = [
    "align-layers",
    "class-vectors",
    "drop-key-bias",
    "fold-feature-map",
    "fold-norm",
    "fold-value-bias",
    "merge-qk",
    "pack-qkv",
    "relax-loops",
    "trim-last-block",
]
#: Those that work on any model, without options.
PLAIN = [name for name in EXACT if name not in ("class-vectors", "fold-feature-map", "relax-loops")]
#: What rounding the weights to fp32 may do to a logit that is computed in float64.
ROUNDING = 2e-6

ffns: st.SearchStrategy[FfnSpec] = st.sampled_from(
    [
        MlpSpec(intermediate_size=7),
        MlpSpec(intermediate_size=7, bias=False),
        GatedMlpSpec(intermediate_size=7),
        AffineSpec(),
        ConstantSpec(),
    ]
)
norms = st.builds(NormSpec, kind=st.sampled_from(["layer", "rms"]), affine=st.booleans(), bias=st.booleans())


@st.composite
def blocks(draw: st.DrawFn, rope: bool = False, loops: int = 1) -> BlockSpec:
    kv_heads = draw(st.integers(1, 3))
    return block_spec(
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 3)),
        value_dim=draw(st.integers(1, 6)),
        query_bias=draw(st.booleans()),
        key_bias=draw(st.booleans()),
        value_bias=draw(st.booleans()),
        causal=draw(st.booleans()),
        rope=rope and draw(st.booleans()),
        ffn=draw(ffns),
        norm=draw(norms),
        residual=draw(st.sampled_from(["pre", "parallel"])),
        loops=draw(st.integers(1, loops)),
    )


def test_the_exact_rewrites_are_these() -> None:
    assert sorted(name for name, method in REWRITES.items() if method.exact) == EXACT


@settings(max_examples=25, deadline=None)
@given(spec=st.lists(blocks(rope=True), min_size=1, max_size=2), bias=st.booleans(), seed=st.integers(0, 99))
def test_fold_norm_keeps_the_logits_and_leaves_no_gain(spec: list[BlockSpec], bias: bool, seed: int) -> None:
    pools: Any = ("cls", "patch-mean") if bias else ("mean",)
    model = model_of(*spec, pools=pools, seed=seed, final_norm=NormSpec(bias=bias))
    result = rewritten(model, "fold-norm")
    assert moved(model, result) <= ROUNDING
    assert not [name for name in result.state_dict() if "norm" in name]


@settings(max_examples=25, deadline=None)
@given(spec=blocks(loops=3), seed=st.integers(0, 99))
def test_drop_key_bias_keeps_the_logits_and_leaves_no_key_bias(spec: BlockSpec, seed: int) -> None:
    model = model_of(spec, seed=seed)
    result = rewritten(model, "drop-key-bias")
    assert moved(model, result) <= ROUNDING
    assert not [name for name in result.state_dict() if "key.bias" in name]


@settings(max_examples=25, deadline=None)
@given(spec=blocks(rope=True, loops=3), seed=st.integers(0, 99))
def test_fold_value_bias_keeps_the_logits_and_leaves_no_value_bias(spec: BlockSpec, seed: int) -> None:
    model = model_of(spec, seed=seed)
    result = rewritten(model, "fold-value-bias")
    assert moved(model, result) <= ROUNDING
    assert not [name for name in result.state_dict() if "value.bias" in name]


@settings(max_examples=25, deadline=None)
@given(spec=st.lists(blocks(), min_size=2, max_size=2), layers=st.sampled_from(["all", [1]]), seed=st.integers(0, 99))
def test_merge_qk_keeps_the_logits_and_leaves_no_keys(spec: list[BlockSpec], layers: Any, seed: int) -> None:
    model = model_of(*spec, seed=seed)
    result = rewritten(model, "merge-qk", layers=layers)
    assert moved(model, result) <= ROUNDING
    kept = [name for name in result.state_dict() if "scores.key.weight" in name]
    assert kept == ([] if layers == "all" else ["blocks.0.mixer.scores.key.weight"])


@settings(max_examples=25, deadline=None)
@given(spec=blocks(rope=True, loops=3), seed=st.integers(0, 99))
def test_pack_qkv_keeps_the_logits_and_packs_every_layer(spec: BlockSpec, seed: int) -> None:
    model = model_of(spec, seed=seed)
    result = rewritten(model, "pack-qkv")
    assert moved(model, result) <= ROUNDING
    assert isinstance(result.structure.blocks[0].mixer, PackedAttentionSpec)


@settings(max_examples=25, deadline=None)
@given(
    spec=st.lists(blocks(rope=True), min_size=1, max_size=2),
    pools=st.sampled_from([("cls",), ("distillation",), ("cls", "distillation")]),
    seed=st.integers(0, 99),
)
def test_trim_last_block_keeps_the_logits_and_every_weight(spec: list[BlockSpec], pools: Any, seed: int) -> None:
    model = model_of(*spec, pools=pools, seed=seed)
    result = rewritten(model, "trim-last-block")
    assert moved(model, result) <= ROUNDING
    assert result.num_parameters() == model.num_parameters()
    assert result.structure.blocks[-1].leading == (1 if pools == ("cls",) else 2)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(PLAIN),
    spec=st.lists(blocks(rope=True), min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
def test_in_any_order_an_exact_rewrite_is_exact_or_says_why_not(
    order: list[str], spec: list[BlockSpec], seed: int
) -> None:
    model = result = model_of(*spec, seed=seed)
    calibration = calibration_of(model)
    for name in order:
        try:
            result = rewritten(result, name, calibration)
        except InputError as refusal:
            assert f"{name} is refused" in str(refusal)
    assert moved(model, result) <= 2 * ROUNDING


class Trained:
    """A model of the zoo and some of its images."""

    def __init__(self, name: str, data: str) -> None:
        preprocessing = preprocessing_from_hf(FOLDER / name)
        self.model = read_checkpoint(FOLDER / name, preprocessing)
        images_BCYX, _ = next(load(data).subset(range(0, 80, 10)).batches(preprocessing, batch_size=8))
        self.inputs = {"pixel_values": torch.from_numpy(images_BCYX)}
        self.calibration = Calibration(self.model, lambda: iter([self.inputs]), note=print)

    @torch.no_grad()
    def moved(self, other: Transformer) -> float:
        """Largest change of a logit in fp32."""
        return float((self.model(self.inputs) - other(self.inputs)).abs().max())


@pytest.fixture(scope="module", params=[("vit-cifar10", "zoo:cifar10-train"), ("vit-mnist", "zoo:mnist-calibration")])
def trained(request: pytest.FixtureRequest) -> Iterator[Trained]:
    yield Trained(*request.param)


@pytest.mark.parametrize("name", PLAIN)
def test_exact_rewrites_move_no_logit_of_a_trained_model(trained: Trained, name: str, record_property: Any) -> None:
    layers = {"layers": [0]} if name == "merge-qk" else {}
    change = trained.moved(rewritten(trained.model, name, trained.calibration, **layers))
    record_property("largest_logit_change", change)
    assert change <= 1e-5


def test_exact_rewrites_one_after_the_other_move_no_logit_of_a_trained_model(
    trained: Trained, record_property: Any
) -> None:
    result = trained.model
    for name in ["fold-norm", "drop-key-bias", "fold-value-bias", "trim-last-block", "pack-qkv"]:
        result = rewritten(result, name, trained.calibration)
    change = trained.moved(result)
    record_property("largest_logit_change", change)
    assert change <= 1e-5
