"""Checkpoints that cannot be used end in one line that says what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import CLASSES, saved
from transformers import ResNetConfig, ResNetForImageClassification

from compress.families import known_types
from compress.json_files import read_object
from compress.tasks import read_checkpoint
from targets.errors import InputError

LAYER = "vit.encoder.layer.1."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(tmp_path, "vit")
    return tmp_path


def refusal(folder: Path) -> str:
    """The line that reading the folder ends with."""
    with pytest.raises(InputError) as caught:
        read_checkpoint(folder, {})
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "missing")


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)


def test_a_character_that_json_writes_as_two_halves_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(rb'{"id2label": {"0": "\ud83d\ude00"}}')
    assert read_object(path) == {"id2label": {"0": "\U0001f600"}}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "a JSON object"),
        (rb'{"id2label": {"0": "a\ud800"}}', "half a character"),
        (rb'{"a\udfff": [1]}', "half a character"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(folder: Path, content: bytes, fault: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert fault in refusal(folder)


def test_an_architecture_that_no_family_reads_is_named_beside_those_that_are(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)).save_pretrained(tmp_path)
    line = refusal(tmp_path)
    assert "unknown model_type 'resnet'" in line
    assert all(known in line for known in known_types())


def test_a_near_miss_of_a_model_type_is_pointed_out(folder: Path) -> None:
    change_config(folder, model_type="dino-v2")
    assert "did you mean 'dinov2'?" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_weights_cut_short_are_told_from_whole_ones(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "damaged or truncated" in refusal(folder)


def test_weights_in_another_format_are_asked_for_as_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    assert "model.safetensors is missing, and so is pytorch_model.bin; tf_model.h5 is not read" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    change_tensors(folder, lambda tensors: tensors[f"{LAYER}intermediate.dense.weight"].view(-1)[7:8].fill_(value))
    assert f"{LAYER}intermediate.dense.weight holds NaN or infinite values" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [f"{LAYER}layernorm_before.weight", f"{LAYER}attention.attention.key.weight", "vit.layernorm.bias"],
)
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(name))
    assert f"the weights lack {name!r}" in refusal(folder)


def test_a_missing_bias_is_missed(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(f"{LAYER}output.dense.bias"))
    assert "lacks 'blocks.1.ffn.down.bias.0'" in refusal(folder)


@pytest.mark.parametrize("family", CLASSES)
def test_a_tensor_of_another_shape_is_named_whichever_it_is(tmp_path: Path, family: str) -> None:
    saved(tmp_path, family)
    tensors = load_file(tmp_path / "model.safetensors")
    read = [name for name in tensors if not name.endswith("mask_token")]
    for name in read:
        save_file(tensors | {name: torch.cat([tensors[name]] * 2, dim=-1)}, tmp_path / "model.safetensors")
        assert "shape" in refusal(tmp_path)


def test_a_classifier_whose_names_are_those_of_a_body_is_refused(folder: Path) -> None:
    change_tensors(
        folder, lambda tensors: [tensors.update({n.removeprefix("vit."): tensors.pop(n)}) for n in [*tensors]]
    )
    assert "expected a checkpoint saved from a ...ForImageClassification class" in refusal(folder)


def test_a_classifier_that_was_cut_off_is_missed(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("classifier.weight"))
    assert "lack 'classifier.weight'" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("num_attention_heads", 5, "hidden_size 12 is not a multiple of 5 heads"),
        ("num_attention_heads", 0, "num_attention_heads must be a whole number from 1 to 2147483647, not 0"),
        ("intermediate_size", 10**30, "intermediate_size must be a whole number from 1 to 2147483647, not 1000"),
        ("num_hidden_layers", "two", "num_hidden_layers must be a whole number from 1 to 2147483647, not 'two'"),
        ("image_size", [8], "image_size must be one or two positive numbers, not [8]"),
        ("patch_size", 3, "do not divide into patches"),
        ("hidden_act", "mish", "activation"),
        ("layer_norm_eps", "tiny", "eps"),
        ("num_hidden_layers", 1, "a layer that config.json leaves out"),
        ("id2label", ["cat", "dog"], "id2label must map numbers to names"),
        ("id2label", {"0": "cat"}, "config.json names one output, but the weights have 5"),
        ("layer_norm_eps", None, "lacks 'layer_norm_eps'"),
    ],
)
def test_a_config_value_that_makes_no_model_is_named(folder: Path, key: str, value: object, fault: str) -> None:
    change_config(folder, **{key: value})
    assert fault in refusal(folder)


def test_a_gated_feed_forward_that_the_weights_lack_is_missed(tmp_path: Path) -> None:
    saved(tmp_path, "dinov2")
    change_config(tmp_path, use_swiglu_ffn=True)
    assert "the weights lack 'dinov2.encoder.layer.0.mlp.weights_in.weight'" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_broken_index_of_shards_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    saved(tmp_path, "vit", shard_size="2KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert f"{shard} is missing; model.safetensors.index.json names it" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("classes", "changes", "wanted"),
    [
        (len(CLASSES), {"id2label": {"0": "score"}}, "config.json names one output, but the weights have"),
        (len(CLASSES), {"problem_type": "multi_label_classification"}, "a head for multi_label_classification is not"),
    ],
)
def test_a_head_that_chooses_no_class_is_refused(
    folder: Path, classes: int, changes: dict[str, object], wanted: str
) -> None:
    change_config(folder, **changes)
    change_tensors(
        folder,
        lambda tensors: tensors.update({n: t[:classes] for n, t in tensors.items() if n.startswith("classifier")}),
    )
    assert wanted in refusal(folder)
