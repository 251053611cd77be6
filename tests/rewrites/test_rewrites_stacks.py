"""A rewrite works on the stack of an encoder-decoder that the recipe names, and leaves the other as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.translators import PAD, saved_translator
from torch import Tensor

from compress.model import Transformer
from compress.model.forms.source_to_target import SourceToTarget
from compress.model.sequence import Context, Memory
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.rewrites.stacks import encoder_of, with_encoder
from compress.tasks import read_checkpoint
from runtime.texts.text import TARGET
from targets.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder: Path = tmp_path_factory.mktemp("translator")
    saved_translator(folder)
    return read_checkpoint(folder, {"vocab_size": 39, "max_length": 40})


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids, target = (torch.randint(3, 39, (4, length), generator=generator) for length in (7, 5))
    target[:, 0] = PAD
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), TARGET: target}


def rewritten(model: Transformer, use: str, stack: str | None, **options: Any) -> Transformer:
    calibration = Calibration(model, lambda: iter([batch(1), batch(2)]), lambda line: None)
    return run_rewrite(*parse_options({"use": use, **options}), model, calibration, stack)


@torch.no_grad()
def test_an_encoder_taken_out_and_put_back_changes_nothing(model: Transformer) -> None:
    again = with_encoder(model, encoder_of(model))
    assert torch.equal(again(batch()), model(batch()))
    assert again.state_dict().keys() == model.state_dict().keys()


@torch.no_grad()
def test_an_exact_rewrite_is_exact_on_either_stack(model: Transformer) -> None:
    for stack in ("encoder", "decoder"):
        other = rewritten(model, "fold-value-bias", stack)
        assert torch.allclose(other(batch()), model(batch()), atol=1e-5)


def test_a_decoder_is_cut_in_depth_and_its_encoder_stays(model: Transformer) -> None:
    shallow = rewritten(model, "drop-blocks", "decoder", layers=[1])
    assert len(shallow.structure.blocks) == 1 and shallow.structure.blocks[0].cross is not None
    assert shallow.structure.encoder == model.structure.encoder


@torch.no_grad()
def test_a_linear_decoder_has_a_state_of_one_size_and_steps_as_it_reads(model: Transformer) -> None:
    linear = rewritten(model, "linear-attention", "decoder", feature="t2r", size=8)
    steps, inputs = SourceToTarget(linear), batch()
    assert not any(state.spec.grows for state in steps.flat) and steps.counts
    states = {state.past: state.fresh(4) for state in steps.flat}
    given = []
    for token_B in inputs[TARGET].T:
        found = dict(zip(steps.outputs, steps({**inputs, TARGET: token_B[:, None], **states}), strict=True))
        states = {state.past: found[state.present] for state in steps.flat}
        given.append(found["logits"])
    assert torch.allclose(torch.cat(given, dim=1), linear(inputs), atol=1e-5)


@torch.no_grad()
def test_linear_cross_attention_computes_its_equation_and_forgets_padding(model: Transformer) -> None:
    linear = rewritten(model, "linear-cross", "decoder", feature="elu", layers=[0])
    assert [spec.cross and spec.cross.kind for spec in linear.structure.blocks] == ["linear", "softmax"]
    generator = torch.Generator().manual_seed(3)
    source_BSD, x_BND = torch.randn(2, 6, 16, generator=generator), torch.randn(2, 3, 16, generator=generator)
    mask_BS = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    cross = linear.block(0).cross
    assert cross is not None
    given = cross(x_BND, 0, Context(memory=Memory(mask_BS, source_BSD)))

    state, balance = cross.state_dict(), 8**0.25

    def heads(name: str, x_BND: Tensor) -> Tensor:
        y_BNE = x_BND @ state[f"{name}.weight"].T + state[f"{name}.bias.0"]
        return y_BNE.unflatten(-1, (2, 8)).transpose(1, 2)

    q_BHNK = heads("scores.query", x_BND) * 8**-0.5 * balance
    k_BHSK, v_BHSV = heads("scores.key", source_BSD) / balance, heads("values.value", source_BSD)
    features = [torch.where(x > 0, x + 1, x.exp()) for x in (q_BHNK, k_BHSK)]
    weights_BHNS = torch.einsum("bhnk,bhsk->bhns", *features) * mask_BS[:, None, None]
    mixed_BHNV = weights_BHNS / weights_BHNS.sum(-1, keepdim=True) @ v_BHSV
    wanted = mixed_BHNV.transpose(1, 2).flatten(2) @ state["values.output.weight"].T + state["values.output.bias.0"]
    assert torch.allclose(given, wanted, atol=1e-5)
    short = cross(x_BND[1:], 0, Context(memory=Memory(None, source_BSD[1:, :4])))
    assert torch.allclose(given[1:], short, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("feature", ["t2r", "hedgehog", "performer"])
def test_a_decoder_with_linear_cross_attention_steps_as_it_reads(model: Transformer, feature: str) -> None:
    linear = rewritten(model, "linear-cross", "decoder", feature=feature)
    steps, inputs = SourceToTarget(linear), batch()
    states = {state.past: state.fresh(4) for state in steps.flat}
    given = []
    for token_B in inputs[TARGET].T:
        found = dict(zip(steps.outputs, steps({**inputs, TARGET: token_B[:, None], **states}), strict=True))
        states = {state.past: found[state.present] for state in steps.flat}
        given.append(found["logits"])
    assert torch.allclose(torch.cat(given, dim=1), linear(inputs), atol=1e-5)


def test_linear_cross_attention_is_refused_where_nothing_is_crossed(model: Transformer) -> None:
    with pytest.raises(InputError, match="a chosen layer has none"):
        rewritten(model, "linear-cross", "encoder", feature="t2r")
    linear = rewritten(model, "linear-cross", "decoder", feature="t2r")
    with pytest.raises(InputError, match="is 'linear' already"):
        rewritten(linear, "linear-cross", "decoder", feature="t2r")


def test_a_stack_has_to_be_named_where_there_are_two(model: Transformer) -> None:
    with pytest.raises(InputError, match='say which: stack = "encoder" or "decoder"'):
        rewritten(model, "fold-value-bias", None)
    with pytest.raises(InputError, match="stack: must be encoder or decoder"):
        parse_options({"use": "fold-value-bias", "stack": "middle"})
    with pytest.raises(InputError, match="leave stack out"):
        rewritten(encoder_of(model), "fold-value-bias", "encoder")


def test_tied_decoder_layers_weigh_the_tokens_of_the_source_and_not_its_padding(model: Transformer) -> None:
    padded, mask = batch(), torch.ones(4, 9, dtype=torch.long)
    mask[:, 7:] = 0
    ids = torch.cat([padded["input_ids"], torch.full((4, 2), PAD)], dim=1)
    own = {**padded, "decoder_attention_mask": torch.ones_like(padded[TARGET])}
    longer = {**own, "input_ids": ids, "attention_mask": mask}

    def tied(inputs: dict[str, Tensor]) -> Transformer:
        calibration = Calibration(model, lambda: iter([inputs]), lambda line: None)
        table = {"use": "tie-layers", "grouping": "cycle", "delta_rank": 2}
        return run_rewrite(*parse_options(table), model, calibration, "decoder")

    first, second = tied(own).state_dict(), tied(longer).state_dict()
    assert tied(own).structure.blocks[0].loops == 2
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-4), name
