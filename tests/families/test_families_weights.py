"""Weights are taken from the files that transformers takes, whatever they are stored as, and none is left unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import pixels, saved
from support.text_checkpoints import batch_of, saved_text
from torch import Tensor

from compress.tasks import read_checkpoint
from targets.errors import InputError

Tensors = dict[str, Tensor]


def tensors_of(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def write(folder: Path, tensors: Tensors, **config: Any) -> None:
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors")
    options = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(options | config))


@torch.no_grad()
def logits(folder: Path, notes: list[str] | None = None) -> Tensor:
    model = read_checkpoint(folder, {}, ([] if notes is None else notes).append)
    batch = batch_of("right")
    return model(batch)[batch["attention_mask"].bool()]


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(folder, {})
    line = str(caught.value)
    assert "\n" not in line and len(line.replace(str(folder), "")) < 300
    return line


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    saved_text(tmp_path, "llama", "ForCausalLM")
    return tmp_path


def test_one_whole_file_wins_over_shards_that_were_left_behind(tmp_path: Path) -> None:
    saved(tmp_path, "vit", shard_size="2KB", seed=3)
    original = saved(tmp_path / "new", "vit", seed=4)
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    notes: list[str] = []
    x_BCYX = pixels(3, 8, 8)
    with torch.no_grad():
        given = read_checkpoint(tmp_path, {}, notes.append)({"pixel_values": x_BCYX})
        torch.testing.assert_close(given, original(x_BCYX).logits, atol=1e-4, rtol=0)
    assert "model.safetensors.index.json is left: model.safetensors is there, and transformers takes that" in notes


@pytest.mark.parametrize("shards", [False, True])
def test_pickled_weights_are_read_without_running_what_they_hold(llama: Path, shards: bool) -> None:
    expected, tensors = logits(llama), tensors_of(llama)
    (llama / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.bin": names[:3], "b.bin": names[3:]} if shards else {"pytorch_model.bin": names}
    for file, part in files.items():
        torch.save({name: tensors[name] for name in part}, llama / file)
    if shards:
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (llama / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(llama), expected)


def test_pickled_weights_with_code_or_damage_are_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    file = llama / "pytorch_model.bin"
    torch.save({"weight": Path}, file)
    assert "holds more than tensors, which is not run here" in refusal(llama)
    torch.save({"epoch": 3}, file)
    assert "is not a table of tensors by name" in refusal(llama)
    for content in (b"", b"PK\x03\x04cut", b"\x80\x02}q\x00.", b"text"):
        file.write_bytes(content)
        assert str(file) in refusal(llama)


def per_row_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    largest_O = weight_OI.abs().amax(1)
    return (weight_OI / largest_O[:, None] * 127).round().to(torch.int8), largest_O


def blocks_of_fp8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks of 5 x 4, the last ones cut off."""
    rows, columns = -(-weight_OI.shape[0] // 5), -(-weight_OI.shape[1] // 4)
    scale = torch.rand(rows, columns) / 100 + 0.01
    return (weight_OI / widened(scale, weight_OI)).to(torch.float8_e4m3fn), scale


def widened(scale: Tensor, weight_OI: Tensor) -> Tensor:
    return scale.repeat_interleave(5, 0).repeat_interleave(4, 1)[: weight_OI.shape[0], : weight_OI.shape[1]]


FORMS: dict[str, tuple[str, Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor, Tensor], Tensor]]] = {
    "bitsandbytes": ("SCB", per_row_int8, lambda q, s: q.float() * s[:, None] / 127),
    "compressed-tensors": (
        "weight_scale",
        lambda w: ((w / 0.01).to(torch.float8_e4m3fn), torch.full((len(w), 1), 0.01, dtype=torch.bfloat16)),
        lambda q, s: q.float() * s.float(),
    ),
    "fbgemm_fp8": (
        "weight_scale",
        lambda w: ((w / 0.02).to(torch.float8_e5m2), torch.tensor([0.02])),
        lambda q, s: q.float() * s,
    ),
    "fp8": ("weight_scale_inv", blocks_of_fp8, lambda q, s: q.float() * widened(s, q)),
}


@pytest.mark.parametrize("method", FORMS)
def test_weights_in_8_bits_are_multiplied_by_their_scales_and_it_is_said(llama: Path, method: str) -> None:
    beside, store, stands_for = FORMS[method]
    plain, packed = tensors_of(llama), {}
    for name, weight in list(plain.items()):
        packed[name] = weight
        if name.endswith("_proj.weight"):
            packed[name], scale = store(weight)
            packed[name.replace("weight", beside)] = scale
            plain[name] = stands_for(packed[name], scale)
    write(llama, plain)
    expected, notes = logits(llama), list[str]()
    write(llama, packed, quantization_config={"quant_method": method, "weight_block_size": [5, 4]})
    torch.testing.assert_close(logits(llama, notes), expected, atol=1e-5, rtol=0)
    assert notes == [
        f"the checkpoint is quantized ({method}): 14 weights were multiplied by their scales; the original here is "
        "this dequantized model, its activations are not quantized"
    ]


def change_one(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    name = "model.layers.0.mlp.up_proj.weight"
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change_one(lambda w: w.to(torch.int8)), "up_proj.weight is stored as int8 without its scale"),
        (change_one(lambda w: w.to(torch.float8_e4m3fn)), "is stored as float8_e4m3fn without its scale"),
        (
            lambda t: (
                change_one(lambda w: w.to(torch.float8_e4m3fn))(t),
                t.update({"model.layers.0.mlp.up_proj.weight_scale": torch.tensor([127], dtype=torch.uint8)}),
            ),
            "up_proj.weight_scale is stored as uint8",
        ),
        (change_one(lambda w: w.to(torch.int32)), "is stored as int32, not as floating point"),
        (change_one(lambda w: w.to(torch.complex64)), "up_proj.weight holds complex numbers"),
        (change_one(lambda w: torch.tensor(3.0)), "has the shape (), but a matrix is wanted"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.qweight": torch.zeros(3, 3).int()}),
            "qweight is packed (awq)",
        ),
        (lambda t: t.update({"model.layers.0.q_norm.weight": torch.ones(4)}), "which a 'llama' model does not have"),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(4, 4)}),
            "a layer that config.json leaves",
        ),
    ],
)
def test_no_tensor_is_taken_for_what_it_is_not(llama: Path, change: Callable[[Tensors], object], fault: str) -> None:
    tensors = tensors_of(llama)
    change(tensors)
    write(llama, tensors, quantization_config={"quant_method": "awq"})
    assert fault in refusal(llama)


def test_scales_that_fit_no_weight_are_refused(llama: Path) -> None:
    tensors = tensors_of(llama)
    stem = "model.layers.0.mlp.up_proj.weight"
    write(llama, tensors | {stem: tensors[stem].to(torch.int8), f"{stem}_scale": torch.ones(7)})
    assert "which fits no weight of (20, 12)" in refusal(llama)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_inside_a_wrapper_of_a_training_framework_are_read(llama: Path, wrapper: str) -> None:
    expected, notes = logits(llama), list[str]()
    write(llama, {f"{wrapper}{name}": tensor for name, tensor in tensors_of(llama).items()})
    assert torch.equal(logits(llama, notes), expected)
    assert "saved from inside a wrapper" in notes[0]


def test_names_inside_another_model_are_named(llama: Path) -> None:
    write(llama, {f"student.{name}": tensor for name, tensor in tensors_of(llama).items()})
    assert "they hold 'student.lm_head.weight', saved from inside another model" in refusal(llama)


def test_what_the_task_does_not_use_is_named(tmp_path: Path) -> None:
    saved_text(tmp_path, "bert", "Model")
    notes: list[str] = []
    logits_of_pooler = tensors_of(tmp_path) | {"embeddings.position_ids": torch.arange(18)[None]}
    write(tmp_path, logits_of_pooler)
    read_checkpoint(tmp_path, {}, notes.append)
    assert notes == ["not read, since embedding does not use it: pooler.dense.bias, pooler.dense.weight"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"embedding_multiplier": 12.0}, "embedding_multiplier = 12.0 changes what the model computes"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers = [1, 0] changes what the model computes"),
        ({"architectures": ["GemmaForCausalLM"]}, "names GemmaForCausalLM, which is not a class of model_type 'llama'"),
        ({"architectures": ["Llama4ForCausalLM"]}, "is not a class of model_type 'llama'"),
        ({"rope_theta": "x", "rope_parameters": None}, "rope_theta must be a finite number, not 'x'"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a finite number"),
    ],
)
def test_options_that_change_the_answers_are_known_or_refused(llama: Path, changes: dict[str, Any], fault: str) -> None:
    write(llama, tensors_of(llama), **changes)
    assert fault in refusal(llama)


def test_options_that_nobody_knows_are_named(llama: Path) -> None:
    notes: list[str] = []
    write(llama, tensors_of(llama), my_option=3, embedding_multiplier=1.0, unsloth_fixed=True)
    logits(llama, notes)
    assert notes == ["config.json: not known for a llama model, and left: my_option"]


def test_folders_that_are_not_the_model_say_which_is(tmp_path: Path) -> None:
    snapshot, run = tmp_path / "models--a" / "snapshots" / "1a2b", tmp_path / "run"
    saved_text(snapshot, "bert", "Model")
    for step in ("checkpoint-50", "checkpoint-500"):
        saved_text(run / step, "bert", "Model")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert f"give {snapshot}" in refusal(tmp_path / "models--a")
    assert f"Did you mean {run / 'checkpoint-500'}?" in refusal(run)
    assert "merge it into its base model first" in refusal(tmp_path / "lora")
    assert f"give the folder that holds it: {snapshot}" in refusal(snapshot / "model.safetensors")
    assert "hf download google/vit --local-dir vit" in refusal(Path("google/vit"))
