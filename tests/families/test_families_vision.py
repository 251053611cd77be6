"""Layouts of vision transformers beside ViT compute what the original library computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from support.checkpoints import pixels, saved
from torch import Tensor
from transformers import PreTrainedModel, SiglipConfig, SiglipForImageClassification

from compress import tasks
from compress.model.embeds.patch import PatchEmbedSpec
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4
_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}


@torch.no_grad()
def check(folder: Path, original: PreTrainedModel, x_BCYX: Tensor, **call: Any) -> None:
    notes: list[str] = []
    model = read_checkpoint(folder, {"size": list(x_BCYX.shape[2:])}, notes.append)
    torch.testing.assert_close(model({"pixel_values": x_BCYX}), original(x_BCYX, **call).logits, atol=TOLERANCE, rtol=0)
    assert notes == []


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("beit", {}),
        ("beit", {"use_mean_pooling": False, "layer_scale_init_value": 0.3}),
        ("beit", {"use_relative_position_bias": True, "layer_scale_init_value": 0.3}),
        ("beit", {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True}),
        ("dinov2", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
        ("dinov2 with registers", {"mlp_ratio": 2, "num_register_tokens": 3}),
        ("dinov2 with registers", {"mlp_ratio": 2, "num_register_tokens": 4, "use_swiglu_ffn": True}),
    ],
)
def test_a_layout_computes_the_logits_of_transformers(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    check(tmp_path, saved(tmp_path, family, **changes), pixels(3, 8, 8))


def test_registers_stay_where_images_are_of_another_size(tmp_path: Path) -> None:
    original = saved(tmp_path, "dinov2 with registers", mlp_ratio=2, image_size=12)
    model = read_checkpoint(tmp_path, {"size": [8, 20]})
    assert isinstance(model.structure.embed, PatchEmbedSpec) and model.structure.embed.prefix_tokens == 5
    with torch.no_grad():
        logits, theirs = model({"pixel_values": pixels(3, 8, 20)}), original(pixels(3, 8, 20)).logits
    torch.testing.assert_close(logits, theirs, atol=TOLERANCE, rtol=0)


def test_beit_is_refused_for_images_of_another_size(tmp_path: Path) -> None:
    saved(tmp_path, "beit", use_relative_position_bias=True)
    with pytest.raises(InputError, match="prepare images of that size"):
        read_checkpoint(tmp_path, {"size": [16, 8]})


@torch.no_grad()
def test_siglip_averages_all_patches(tmp_path: Path) -> None:
    tower = _SIZES | {"image_size": 8, "patch_size": 4}
    text = _SIZES | {"vocab_size": 20, "max_position_embeddings": 8, "projection_size": 12}
    original = SiglipForImageClassification(SiglipConfig(vision_config=tower, text_config=text, num_labels=4)).eval()
    for parameter in original.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.3)
    original.save_pretrained(tmp_path)
    check(tmp_path, original, pixels(3, 8, 8))


VECTORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", {}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2}),
    "dinov2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"mlp_ratio": 2}),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 3}),
    "dinov3, no registers": ("DINOv3ViTModel", "DINOv3ViTConfig", {"key_bias": True, "rope_theta": 30.0}),
    "clip": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {"projection_dim": 7}),
    "clip, no projection": ("CLIPVisionModel", "CLIPVisionConfig", {}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {}),
}


@pytest.mark.parametrize("name", VECTORS)
@torch.no_grad()
def test_bare_bodies_give_the_vector_of_an_image(tmp_path: Path, name: str) -> None:
    kind, config, changes = VECTORS[name]
    sizes = _SIZES | {"image_size": 8, "patch_size": 4} | changes
    original = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    for parameter in original.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.3)
    original.save_pretrained(tmp_path)
    notes: list[str] = []
    model = read_checkpoint(tmp_path, {}, notes.append)
    answer = original(pixels(3, 8, 8))
    wanted = answer.last_hidden_state[:, 0]
    if "clip" in name:
        wanted = answer.image_embeds if "no projection" not in name else answer.pooler_output
    if name == "siglip":
        wanted = answer.pooler_output
    assert model.structure.task == "image-embedding"
    torch.testing.assert_close(model({"pixel_values": pixels(3, 8, 8)}), wanted, atol=TOLERANCE, rtol=0)
    assert not [note for note in notes if "pooler" not in note]


def timm_folder(folder: Path, original: PreTrainedModel, **config: Any) -> None:
    """The weights of a ViT of transformers by timm's names."""
    tensors = {name.removeprefix("vit."): one for name, one in original.state_dict().items()}
    renamed = {
        "cls_token": tensors["embeddings.cls_token"],
        "pos_embed": tensors["embeddings.position_embeddings"],
    }
    for part in ("weight", "bias"):
        renamed[f"patch_embed.proj.{part}"] = tensors[f"embeddings.patch_embeddings.projection.{part}"]
        renamed[f"norm.{part}"], renamed[f"head.{part}"] = tensors[f"layernorm.{part}"], tensors[f"classifier.{part}"]
        for index in range(2):
            layer, block = f"encoder.layer.{index}.", f"blocks.{index}."
            heads = original.vit.layers[index].attention if hasattr(original.vit, "layers") else None
            names = ("q_proj", "k_proj", "v_proj") if heads is not None else ("query", "key", "value")
            found = {name: one for name, one in tensors.items() if f".{index}." in name and name.endswith(part)}
            qkv = [next(one for name, one in found.items() if key in name) for key in names]
            renamed[f"{block}attn.qkv.{part}"] = torch.cat(qkv)
            for ours, theirs in {
                "attn.proj": ("attention.output.dense", "attention.o_proj"),
                "norm1": ("layernorm_before",),
                "norm2": ("layernorm_after",),
                "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
                "mlp.fc2": (f"{index}.output.dense", "mlp.fc2"),
            }.items():
                renamed[f"{block}{ours}.{part}"] = next(
                    one for name, one in found.items() if any(key in name for key in theirs)
                )
            del layer
    folder.mkdir(exist_ok=True)
    save_file({name: one.detach().clone().contiguous() for name, one in renamed.items()}, folder / "model.safetensors")
    made = {"input_size": [3, 8, 8], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    base = {"architecture": "vit_tiny_patch4_8", "num_classes": 5, "global_pool": "token", "pretrained_cfg": made}
    (folder / "config.json").write_text(json.dumps(base | {"model_args": {"num_heads": 3}} | config))


@torch.no_grad()
def test_a_timm_folder_is_read_without_timm(tmp_path: Path) -> None:
    original = saved(tmp_path / "hf", "vit", layer_norm_eps=1e-6)
    timm_folder(tmp_path / "timm", original, label_names=["a", "b", "c", "d", "e"])
    task = tasks.of_folder(tmp_path / "timm")
    section = task.preprocessing(tmp_path / "timm", print)
    assert section["size"] == [8, 8] and section["resize"] == {
        "mode": "shortest_edge",
        "size": 8,
        "resample": "bicubic",
    }
    notes: list[str] = []
    model = read_checkpoint(tmp_path / "timm", section, notes.append)
    logits = model({"pixel_values": pixels(3, 8, 8)})
    torch.testing.assert_close(logits, original(pixels(3, 8, 8)).logits, atol=TOLERANCE, rtol=0)
    assert model.structure.labels == ("a", "b", "c", "d", "e") and notes == []


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"architecture": "swin_tiny"}, "architecture 'swin_tiny' of timm is not read, only vit, deit, eva and eva02"),
        ({"architecture": "vit_odd", "model_args": {}}, "how many heads vit_odd has is not known; add num_heads"),
        ({"global_pool": "map"}, "global_pool = 'map' is not supported, only token and avg"),
        ({"model_args": {"num_heads": 3, "act_layer": "silu"}}, "model_args act_layer = 'silu' is not read"),
    ],
)
def test_timm_folders_that_cannot_be_read_say_why(tmp_path: Path, config: dict[str, Any], fault: str) -> None:
    timm_folder(tmp_path / "timm", saved(tmp_path / "hf", "vit"), **config)
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path / "timm", {})


@torch.no_grad()
def test_a_masked_autoencoder_is_refused_and_its_encoder_is_read_as_a_vit(tmp_path: Path) -> None:
    options = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    config = transformers.ViTMAEConfig(**options, image_size=8, patch_size=4, mask_ratio=0.0)
    original = transformers.ViTMAEModel(config).eval()
    original.save_pretrained(tmp_path)
    with pytest.raises(InputError, match='to use its encoder set model_type to "vit"'):
        read_checkpoint(tmp_path, {})
    path = tmp_path / "config.json"
    plain = {"model_type": "vit", "architectures": ["ViTModel"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | plain))
    wanted_BND = original(pixels(3, 8, 8), noise=torch.arange(4.0)[None].repeat(3, 1)).last_hidden_state
    given_BD = read_checkpoint(tmp_path, {})({"pixel_values": pixels(3, 8, 8)})
    torch.testing.assert_close(given_BD, wanted_BND[:, 0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_classifier_with_one_output_gives_a_number(tmp_path: Path) -> None:
    original = saved(tmp_path, "vit", num_labels=1)
    model = read_checkpoint(tmp_path, {})
    assert model.structure.task == "image-regression" and model.structure.labels == ()
    logits = model({"pixel_values": pixels(3, 8, 8)})
    torch.testing.assert_close(logits, original(pixels(3, 8, 8)).logits, atol=TOLERANCE, rtol=0)
