"""Attention transfer: new mixers learn what the old ones did, and nothing else changes.

B batch, N tokens, H heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import xlogy
from support.healing import damaged, feed, healed, tiny, vit_mnist

from compress.heal.attention_transfer import AttentionTransfer, row_cross_entropy
from compress.model import Transformer
from compress.model.mixers.linformer import Linformer


def changed(model: Transformer, other: Transformer) -> set[str]:
    state = other.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}


@pytest.mark.parametrize(
    ("use", "options", "learned"),
    [
        ("linear-attention", {"feature": "t2r"}, {"feature.weight_GKF", "feature.bias_GF"}),
        ("linear-attention", {"feature": "hedgehog"}, {"feature.query_HKF", "feature.key_GKF"}),
        ("linformer", {"pools": 2}, {"key_LP", "value_LP", "offset_P"}),
    ],
)
def test_only_what_softmax_attention_lacks_is_trained(
    tmp_path: Path, use: str, options: dict[str, Any], learned: set[str]
) -> None:
    original = tiny(layers=3)
    model = damaged(original, use, layers=[0, 2], **options)
    result = healed(model, original, tmp_path, attention_steps=12, attention_lr=3e-3)
    assert result.drift_after < result.drift_before
    assert changed(result.model, model) == {f"blocks.{block}.mixer.{name}" for block in (0, 2) for name in learned}


def test_a_trained_model_comes_nearer_to_its_original(tmp_path: Path) -> None:
    model = damaged(vit_mnist(), "linear-attention", feature="hedgehog", layers=[1, 3, 5])
    losses: list[float] = []

    def progress(done: float, total: float, note: str = "", **numbers: float) -> None:
        assert (note, total) == ("attention", 20)
        losses.append(numbers["loss"])

    result = healed(model, vit_mnist(), tmp_path, images=256, progress=progress, attention_steps=20, attention_rows=0.1)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert result.drift_after < 0.8 * result.drift_before


def test_maps_without_weights_have_nothing_to_learn(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "linear-attention", feature="elu")
    assert AttentionTransfer.of(model, original).steps == ()
    result = healed(model, original, tmp_path, attention_steps=3)
    assert changed(result.model, model) == set()


@torch.no_grad()
def test_the_loss_is_the_mean_over_mixers_of_error_by_variance_and_row_entropy() -> None:
    original = tiny(layers=2)
    model = damaged(original, "linear-attention", feature="t2r")
    (inputs, *_) = feed(16).plain(16)
    transfer = AttentionTransfer.of(model, original)
    seen: dict[Any, Any] = {}
    original(inputs, lambda step, site, tokens: seen.update({(step, site): tokens.x_BND}))
    expected = []
    for block in range(2):
        mine, theirs = (each.block(block).mixer for each in (model, original))
        assert mine is not None and theirs is not None
        x_BND, target_BND = seen[block, "mixer.in"], seen[block, "mixer.out"].double()
        _, context = original.embed(inputs)
        error = (mine(x_BND, 0, context).double() - target_BND).square().mean() / target_BND.var()
        rows, targets = (each.attention(x_BND, 0, context).double().numpy() for each in (mine, theirs))
        entropy = -xlogy(targets, np.maximum(rows, 1e-9)).sum(axis=-1).mean()
        expected.append(float(error) + 0.5 * entropy)
    assert float(transfer.loss(inputs, rows=0.5)) == pytest.approx(np.mean(expected), rel=1e-4)


def test_padded_queries_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, targets = (torch.rand(2, 3, 5, 5, generator=generator).softmax(dim=-1) for _ in range(2))
    mask_BN = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    kept = [
        row_cross_entropy(rows[:1, :, :3], targets[:1, :, :3], None),
        row_cross_entropy(rows[1:], targets[1:], None),
    ]
    expected = (3 * float(kept[0]) + 5 * float(kept[1])) / 8
    assert float(row_cross_entropy(rows, targets, mask_BN)) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_transfer_of_pools_has_no_rows_to_hold() -> None:
    original = tiny()
    model = damaged(original, "linformer", pools=2, layers=[0])
    assert isinstance(model.block(0).mixer, Linformer)
    (inputs, *_) = feed(8).plain(8)
    transfer = AttentionTransfer.of(model, original)
    assert float(transfer.loss(inputs, rows=3.0)) == float(transfer.loss(inputs, rows=0.0))
