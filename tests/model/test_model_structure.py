"""Whole models: the schedule, loops that share weights, tokens that are left behind, pools and observers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support import oracle
from support.tiny import HIDDEN, block_spec, images, logits, model_of, structure_of

from compress.model import Step, Structure, Transformer
from compress.model.embed import Embed
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.affine import AffineSpec
from compress.model.forms.streaming import Streaming
from compress.model.head import Head, HeadSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool
from compress.model.sequence import Context
from compress.model.structure import output_targets
from compress.spec import Spec, unknown

schedules = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=6)


@given(schedule=schedules, loops=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_a_schedule_runs_each_loop_of_each_block_once(schedule: list[tuple[int, int]], loops: list[int]) -> None:
    blocks = [block_spec(loops=count) for count in loops]
    wanted = sorted((block, loop) for block, count in enumerate(loops) for loop in range(count))
    steps = tuple(Step(block=block, loop=loop, origin=0) for block, loop in schedule)
    if sorted(schedule) == wanted:
        assert structure_of(*blocks, schedule=steps).schedule == steps
    else:
        with pytest.raises(ValidationError, match="does not run each loop of each block once"):
            structure_of(*blocks, schedule=steps)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]), seed=st.integers(0, 99))
def test_a_looped_model_computes_what_it_computes_unrolled(order: list[tuple[int, int]], seed: int) -> None:
    specs = block_spec(loops=2, kv_heads=1), block_spec(loops=3, residual="parallel")
    steps = tuple(Step(block=block, loop=loop, origin=i) for i, (block, loop) in enumerate(order))
    looped = model_of(*specs, schedule=steps, seed=seed)
    flat = model_of(*(specs[block].replace(loops=1) for block, _ in order))
    state = {}
    for name in flat.state_dict():
        source = name
        if name.startswith("blocks."):
            _, place, rest = name.split(".", 2)
            block, loop = order[int(place)]
            own = f"{rest.removesuffix('.0')}.{loop}" if rest.endswith(".0") else rest
            source = f"blocks.{block}.{own}"
        state[name] = looped.state_dict()[source]
    flat.load_state_dict(state)
    torch.testing.assert_close(logits(looped, images(looped)), logits(flat, images(flat)), atol=1e-12, rtol=0)


def test_weights_are_shared_when_a_block_is_looped() -> None:
    once, thrice = (model_of(block_spec(loops=loops)) for loops in (1, 3))
    names = {name for name in thrice.state_dict() if name.startswith("blocks.")}
    assert {name for name in names if not name[-1].isdigit()} == {
        name for name in once.state_dict() if name.startswith("blocks.") and not name[-1].isdigit()
    }
    vectors = {name: parameter for name, parameter in once.blocks.named_parameters() if name[-1].isdigit()}
    assert all(parameter.ndim == 1 for parameter in vectors.values())
    more = thrice.num_parameters() - once.num_parameters()
    assert more == 2 * sum(parameter.numel() for parameter in vectors.values())
    twice_as_deep = model_of(block_spec(), block_spec(), block_spec())
    assert thrice.num_parameters() < 0.6 * twice_as_deep.num_parameters()


@pytest.mark.parametrize("residual", ["pre", "post", "parallel"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 5])
@torch.no_grad()
def test_the_tokens_that_a_block_keeps_are_those_of_the_whole_block(residual: str, causal: bool, keep: int) -> None:
    spec = block_spec(residual=residual, causal=causal, kv_heads=1)
    whole, kept = model_of(spec).double(), model_of(spec.replace(keep_tokens=keep)).double()
    x_BND = torch.randn(2, 5, HIDDEN, dtype=torch.float64)
    _, context = whole.embed({"pixel_values": images(whole)["pixel_values"].double()})
    part, full = (model.block(0)(x_BND, 0, context)[0] for model in (kept, whole))
    torch.testing.assert_close(part, full[:, :keep], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "pools", [("cls",), ("mean",), ("patch-mean",), ("distillation",), ("cls", "patch-mean"), ("cls", "distillation")]
)
@settings(max_examples=5, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 3),
    embed_norm=st.booleans(),
    final_norm=st.booleans(),
    bias=st.booleans(),
)
@torch.no_grad()
def test_a_whole_model_computes_its_equations(
    pools: tuple[Pool, ...],
    grid: tuple[int, int],
    patch: tuple[int, int],
    channels: int,
    embed_norm: bool,
    final_norm: bool,
    bias: bool,
) -> None:
    prefix = 2 if "distillation" in pools else 1
    spec = block_spec()
    model = model_of(
        spec,
        spec,
        pools=pools,
        embed=PatchEmbedSpec(
            channels=channels,
            image_size=(grid[0] * patch[0], grid[1] * patch[1]),
            patch_size=patch,
            prefix_tokens=prefix,
            patch_bias=bias,
            norm=NormSpec() if embed_norm else None,
        ),
        final_norm=NormSpec() if final_norm else None,
        head=ClassifierSpec(num_labels=3, pools=pools, bias=bias),
    )
    w = oracle.weights_of(model)
    inputs = images(model, batch=2)
    for image_CYX, mine in zip(inputs["pixel_values"].double().numpy(), logits(model, inputs), strict=True):
        tokens = list(w["embed.prefix"][0])
        for y in range(grid[0]):
            for x in range(grid[1]):
                piece = image_CYX[:, y * patch[0] : (y + 1) * patch[0], x * patch[1] : (x + 1) * patch[1]]
                tokens.append((w["embed.patch.weight"] * piece).sum((1, 2, 3)) + w.get("embed.patch.bias", 0.0))
        x_ND = np.array(tokens) + w["embed.position"][0]
        if embed_norm:
            x_ND = np.array([oracle.normed(NormSpec(), oracle.under(w, "embed.norm"), x_D, 0) for x_D in x_ND])
        for index in range(2):
            x_ND = oracle.block(spec, oracle.under(w, f"blocks.{index}"), x_ND, lambda i, j: True, 0)
        if final_norm:
            x_ND = np.array([oracle.normed(NormSpec(), oracle.under(w, "final_norm"), x_D, 0) for x_D in x_ND])
        pooled = {"cls": x_ND[0], "mean": x_ND.mean(0), "patch-mean": x_ND[1:].mean(0), "distillation": x_ND[1]}
        read = np.concatenate([pooled[pool] for pool in pools])
        expected = oracle.linear(oracle.under(w, "head.output"), read, 0)
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-9)


def test_an_observer_sees_both_halves_of_every_step() -> None:
    model = model_of(block_spec(loops=2), block_spec(keep_tokens=1))
    seen: list[Any] = []
    with torch.no_grad():
        model(images(model, batch=3), lambda step, site, tokens: seen.append((step, site, tuple(tokens.x_BND.shape))))
    sites = ["mixer.in", "mixer.out", "ffn.in", "ffn.out", "whole", "out"]
    assert [(step, site) for step, site, _ in seen] == [(step, site) for step in range(3) for site in sites]
    assert [shape for step, _, shape in seen if step < 2] == [(3, 5, HIDDEN)] * 12
    assert [shape for step, _, shape in seen if step == 2] == [(3, 5, HIDDEN)] + [(3, 1, HIDDEN)] * 5


class TwoAnswers(Head):
    """What a detector gives: a class, and a number beside it."""

    outputs = ("logits", "size")

    def forward(self, x_BND: torch.Tensor, context: Context, embed: Embed) -> dict[str, torch.Tensor]:
        return {"logits": x_BND[:, 0], "size": x_BND.square().mean(dim=(1, 2))}


class TwoAnswersSpec(HeadSpec):
    kind: Literal["toy-two-answers"] = "toy-two-answers"

    def build(self, hidden_size: int) -> TwoAnswers:
        return TwoAnswers()


def test_a_head_may_give_several_outputs_by_name() -> None:
    model = model_of(block_spec(), head=TwoAnswersSpec())
    with torch.no_grad():
        found, answer = model.outputs(images(model, batch=3)), model(images(model, batch=3))
    assert list(found) == list(model.head.outputs) == ["logits", "size"]
    assert torch.equal(found["logits"], answer) and found["size"].shape == (3,)
    assert Structure.model_validate_json(model.structure.model_dump_json()).head == TwoAnswersSpec()


def test_the_recurrent_form_gives_all_of_them_before_the_states() -> None:
    causal = block_spec(causal=True)
    embed = TokenEmbedSpec(vocab_size=11)
    model = model_of(causal, embed=embed, head=TwoAnswersSpec(), task="causal-lm")
    streaming = Streaming(model)
    with torch.no_grad():
        given = streaming(streaming.example(2, 3, 1, torch.Generator().manual_seed(0)))
    assert streaming.outputs[:2] == ["logits", "size"] and len(given) == len(streaming.outputs) == 4


def test_a_copy_shares_nothing() -> None:
    model = model_of(block_spec())
    other = model.copy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    assert all(not bool((parameter == 7).all()) for parameter in model.parameters())


def test_output_targets_give_each_block_what_was_dropped_behind_it() -> None:
    original = structure_of(*[block_spec()] * 6)

    def shortened(*origins: int) -> Structure:
        steps = tuple(Step(block=index, origin=origin) for index, origin in enumerate(origins))
        return structure_of(*[block_spec()] * len(origins), schedule=steps)

    assert output_targets(original, original) == [0, 1, 2, 3, 4, 5]
    assert output_targets(shortened(0, 3, 4), original) == [2, 3, 5]
    assert output_targets(shortened(2, 5), original) == [4, 5]


def test_specs_read_their_own_json_back() -> None:
    structure = structure_of(block_spec(rope=True, head_dim=4), block_spec(ffn=AffineSpec(), keep_tokens=2))
    assert Structure.model_validate_json(structure.model_dump_json()) == structure


def test_a_changed_spec_is_checked_again() -> None:
    with pytest.raises(ValidationError, match="not a multiple"):
        block_spec(heads=4).mixer.scores.replace(num_kv_heads=3)
    with pytest.raises(ValidationError, match="did you mean 'loops'"):
        block_spec().replace(loop=2)


def test_two_parts_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two parts are called 'affine'"):

        class Another(FfnSpec):
            kind: str = "affine"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    line = "unknown key 'lyers'; did you mean 'layers'? (known: layers, rank)"
    assert unknown("key", "lyers", ["layers", "rank"]) == line
    assert unknown("key", 3, ["layers"]) == "unknown key 3 (known: layers)"


def test_specs_cannot_be_changed_in_place() -> None:
    class Small(Spec):
        size: int

    with pytest.raises(ValidationError, match="frozen"):
        Small(size=1).size = 2  # type: ignore[misc]


def test_the_model_is_built_from_its_structure_alone() -> None:
    structure = structure_of(block_spec())
    assert Transformer(structure).state_dict().keys() == model_of(block_spec()).state_dict().keys()
