"""What a family reads computes what the original library computes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import pixels, saved
from torch import Tensor
from transformers import PreTrainedModel

from compress.tasks import read_checkpoint

TOLERANCE = 1e-4
ACTIVATIONS = ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]

shapes = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 3),
        "num_attention_heads": st.sampled_from([1, 2, 3, 5, 7]),
        "num_channels": st.sampled_from([1, 3]),
        "num_labels": st.integers(2, 6),
        "hidden_act": st.sampled_from(ACTIVATIONS),
        "qkv_bias": st.booleans(),
        "layer_norm_eps": st.sampled_from([1e-12, 1e-6, 1e-2]),
    }
)


@torch.no_grad()
def gap(folder: Path, original: PreTrainedModel, x_BCYX: Tensor, **call: Any) -> float:
    """Largest difference of a logit between the original on these images and what is read from its checkpoint."""
    model = read_checkpoint(folder, {"size": list(x_BCYX.shape[2:])})
    theirs = original(x_BCYX, **call).logits
    mine = model({"pixel_values": x_BCYX})
    assert mine.shape == theirs.shape
    return float((mine - theirs).abs().max())


@pytest.mark.parametrize("family", ["vit", "deit", "deit with two heads"])
@settings(max_examples=12, deadline=None)
@given(shape=shapes, head_dim=st.integers(1, 6), width=st.integers(1, 24), seed=st.integers(0, 99))
def test_vit_and_deit_compute_the_logits_of_transformers(
    family: str, shape: dict[str, Any], head_dim: int, width: int, seed: int
) -> None:
    hidden = head_dim * shape["num_attention_heads"]
    with tempfile.TemporaryDirectory() as name:
        original = saved(Path(name), family, seed=seed, hidden_size=hidden, intermediate_size=width, **shape)
        assert gap(Path(name), original, pixels(shape["num_channels"], 8, 8)) <= TOLERANCE


@settings(max_examples=12, deadline=None)
@given(
    shape=shapes,
    head_dim=st.integers(1, 6),
    ratio=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_dinov2_computes_the_logits_of_transformers_at_any_image_size(
    shape: dict[str, Any], head_dim: int, ratio: int, grid: tuple[int, int], seed: int
) -> None:
    hidden = head_dim * shape["num_attention_heads"]
    with tempfile.TemporaryDirectory() as name:
        original = saved(Path(name), "dinov2", seed=seed, hidden_size=hidden, mlp_ratio=ratio, image_size=12, **shape)
        assert gap(Path(name), original, pixels(shape["num_channels"], 4 * grid[0], 4 * grid[1])) <= TOLERANCE


@pytest.mark.parametrize("family", ["vit", "deit", "deit with two heads"])
def test_positions_of_another_image_size_are_interpolated_as_the_original_does(tmp_path: Path, family: str) -> None:
    original = saved(tmp_path, family, image_size=12)
    assert gap(tmp_path, original, pixels(3, 8, 20), interpolate_pos_encoding=True) <= TOLERANCE


@pytest.mark.parametrize(("image", "patch"), [([12, 8], 4), ([6, 15], [3, 5]), ([8, 8], [8, 2])])
def test_images_and_patches_need_not_be_square(tmp_path: Path, image: list[int], patch: int | list[int]) -> None:
    original = saved(tmp_path, "vit", image_size=image, patch_size=patch)
    assert gap(tmp_path, original, pixels(3, *image)) <= TOLERANCE


def test_without_a_size_in_the_preprocessing_images_are_of_the_trained_size(tmp_path: Path) -> None:
    saved(tmp_path, "vit", image_size=[12, 8])
    assert read_checkpoint(tmp_path, {}).structure.embed.image_size == (12, 8)


@torch.no_grad()
def test_mean_pooling_averages_all_patches_but_no_class_token(tmp_path: Path) -> None:
    original = saved(tmp_path, "vit", use_mean_pooling=True)
    x_BCYX = pixels(3, 8, 8)
    tokens_BND = original.vit(x_BCYX).last_hidden_state
    expected = original.classifier(tokens_BND[:, 1:].mean(dim=1))
    logits = read_checkpoint(tmp_path, {})({"pixel_values": x_BCYX})
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    assert (logits - original(x_BCYX).logits).abs().max() > 0.1


def test_layer_scale_of_dinov2_leaves_no_parameter_behind(tmp_path: Path) -> None:
    original = saved(tmp_path, "dinov2")
    scales = sum(p.numel() for name, p in original.named_parameters() if "lambda" in name or "mask_token" in name)
    theirs = sum(parameter.numel() for parameter in original.parameters())
    assert scales
    assert read_checkpoint(tmp_path, {}).num_parameters() == theirs - scales


def test_checkpoints_in_shards_and_in_half_precision_are_read(tmp_path: Path) -> None:
    original = saved(tmp_path / "shards", "vit", shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert gap(tmp_path / "shards", original, pixels(3, 8, 8)) <= TOLERANCE
    half = original.half()
    half.save_pretrained(tmp_path / "half")
    assert gap(tmp_path / "half", half.float(), pixels(3, 8, 8)) <= TOLERANCE


def test_class_names_come_in_the_order_of_the_logits(tmp_path: Path) -> None:
    names = {0: "zebra", 1: "ape", 2: "cat"}
    saved(tmp_path, "vit", num_labels=3, id2label=names, label2id={name: i for i, name in names.items()})
    assert read_checkpoint(tmp_path, {}).structure.labels == ("zebra", "ape", "cat")
