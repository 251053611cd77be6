"""What was read is held against the original library's own forward pass, and a wrong reading is found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import saved
from support.text_checkpoints import saved_class, saved_text
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Gemma2ForCausalLM

from compress.model import Transformer
from compress.stages.original import held_against_original
from compress.tasks import read_checkpoint
from targets.errors import InputError

TEXTS = {"kind": "text", "vocab_size": 23, "max_length": 16, "pad_id": 1}
CASES = ["vit", "vit of another size", "bert classifier", "bert embedding", "roberta", "llama", "clip"]


def made(folder: Path, case: str) -> Transformer:
    if case.startswith("vit"):
        saved(folder, "vit")
        return read_checkpoint(folder, {"size": [8, 8] if case == "vit" else [12, 8]})
    if case == "clip":
        sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
        config = CLIPVisionConfig(**sizes, image_size=8, patch_size=4, projection_dim=7)
        CLIPVisionModelWithProjection(config).eval().save_pretrained(folder)
        return read_checkpoint(folder, {})
    family, _, rest = case.partition(" ")
    kind = {"classifier": "ForSequenceClassification", "embedding": "Model"}.get(rest, "Model")
    saved_text(folder, family, "ForCausalLM" if family == "llama" else kind)
    return read_checkpoint(folder, TEXTS)


@pytest.mark.parametrize("case", CASES)
def test_a_right_reading_is_held_and_a_wrong_one_is_refused(tmp_path: Path, case: str) -> None:
    model = made(tmp_path, case)
    line = held_against_original(tmp_path, model)
    assert line.startswith("held against ") and "on 2 inputs: off by" in line
    with torch.no_grad():
        next(one for name, one in model.named_parameters() if "mixer.values.output.weight" in name).mul_(-9)
    with pytest.raises(InputError, match=r"computes something else than \w+ of transformers: off by .* --no-check"):
        held_against_original(tmp_path, model)


def test_soft_caps_are_compared_where_a_release_would_leave_them_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3}
    caps = {"query_pre_attn_scalar": 1, "attn_logit_softcapping": 0.1}
    saved_class(tmp_path, "Gemma2ForCausalLM", "Gemma2Config", **sizes, **caps, num_key_value_heads=3, head_dim=4)
    monkeypatch.setattr(Gemma2ForCausalLM, "_supports_sdpa", True)  # some releases took the fused attention, too
    model = read_checkpoint(tmp_path, TEXTS)
    assert held_against_original(tmp_path, model).startswith("held against Gemma2ForCausalLM")


def change(folder: Path, **options: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))


def test_why_a_model_was_not_held_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tmp_path, "bert classifier")
    change(tmp_path, architectures=["BertForMagic"])
    assert held_against_original(tmp_path, model).endswith("transformers has no class BertForMagic")
    change(tmp_path, architectures=["BertForTokenClassification"], num_labels=9)
    assert held_against_original(tmp_path, model).startswith("not held against the original library: ")
    (tmp_path / "model.safetensors").unlink()
    assert "transformers does not run this folder" in held_against_original(tmp_path, model)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert held_against_original(tmp_path, model).endswith("the package transformers is not installed")
