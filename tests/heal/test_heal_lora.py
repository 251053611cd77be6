"""LoRA: the same function at the start, low-rank changes alone, plain weights in the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.healing import damaged, feed, healed, tiny
from support.tiny import block_spec, logits, model_of

from compress.heal.lora import lora_parameters, merged, with_lora
from compress.model.projection import Projection
from targets.errors import InputError


def test_it_starts_as_the_model_and_ends_as_plain_weights() -> None:
    model = tiny()
    (inputs, *_) = feed(8).plain(8)
    lora = with_lora(model, 2, seed=0)
    torch.testing.assert_close(logits(lora, inputs), logits(model, inputs), atol=0, rtol=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lora_parameters(lora):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    plain = merged(lora)
    assert plain.structure == model.structure
    assert not torch.allclose(logits(plain, inputs), logits(model, inputs), atol=1e-3)
    torch.testing.assert_close(logits(plain, inputs), logits(lora, inputs), atol=1e-5, rtol=1e-5)


def test_healing_changes_maps_by_that_rank_and_nothing_else(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "linear-attention", feature="t2r", size=4, layers=[0])
    result = healed(model, original, tmp_path, steps=12, eval_every=6, lr=0.01, lora=1)
    assert result.drift_after < result.drift_before
    assert result.model.structure == model.structure
    state = model.state_dict()
    for name, module in result.model.named_modules():
        if not isinstance(module, Projection):
            continue
        change = module.weight.detach() - state[f"{name}.weight"]
        rank = int((torch.linalg.svdvals(change) > 1e-5).sum())
        assert rank == (1 if name.startswith("blocks.") else 0)
    changed = {name for name, tensor in result.model.state_dict().items() if not torch.equal(state[name], tensor)}
    assert all(name.endswith(".weight") or "feature" in name for name in changed)


def test_looped_blocks_have_deltas_of_their_own() -> None:
    model = model_of(block_spec(loops=2))
    with pytest.raises(InputError, match=r"heal.lora is refused for looped blocks"):
        with_lora(model, 2, seed=0)
