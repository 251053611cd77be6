"""Folders that are not a model's own: a LoRA adapter beside its base, the hub's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.text_checkpoints import saved_text

from compress import zoo
from compress.tasks import read_checkpoint
from targets.errors import InputError

PLACE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(autouse=True)
def own_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


def adapter(folder: Path, base: str, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file({f"base_model.model.{name}": one for name, one in tensors.items()}, folder / "adapter_model.safetensors")
    whole = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 6, **config}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    return folder


def halves(base: Path, place: str = PLACE) -> dict[str, torch.Tensor]:
    rows, columns = load_file(base / "model.safetensors")[f"{place}.weight"].shape
    draw = torch.Generator().manual_seed(0)
    return {
        f"{place}.lora_A.weight": torch.randn(2, columns, generator=draw),
        f"{place}.lora_B.weight": torch.randn(rows, 2, generator=draw),
    }


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, 3.0), ({"use_rslora": True}, 6 / 2**0.5), ({"alpha_pattern": {"self_attn.q_proj": 4}}, 2.0)],
)
def test_an_adapter_is_merged_into_its_base(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    base = tmp_path / "base"
    saved_text(base, "llama", "ForCausalLM")
    own = halves(base)
    folder = adapter(tmp_path / "adapter", "../base", own, **config)
    made = zoo.locate(str(folder))
    assert made == zoo.locate(str(folder)), "made once"
    before, after = load_file(base / "model.safetensors"), load_file(made / "model.safetensors")
    a_RI, b_OR = own[f"{PLACE}.lora_A.weight"].double(), own[f"{PLACE}.lora_B.weight"].double()
    wanted = before[f"{PLACE}.weight"].double() + scale * torch.einsum("or,ri->oi", b_OR, a_RI)
    torch.testing.assert_close(after[f"{PLACE}.weight"].double(), wanted, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(after[name], one) for name, one in before.items() if name != f"{PLACE}.weight")
    assert read_checkpoint(made, {}).structure.task == "causal-lm"


def test_an_adapter_of_a_classifier_brings_its_head(tmp_path: Path) -> None:
    base = tmp_path / "base"
    saved_text(base, "llama", "ForCausalLM")
    width = load_file(base / "model.safetensors")["model.norm.weight"].shape[0]
    own = {**halves(base), "score.weight": torch.randn(3, width)}
    made = zoo.locate(str(adapter(tmp_path / "adapter", str(base), own, task_type="SEQ_CLS")))
    model = read_checkpoint(made, {})
    assert model.structure.task == "text-classification" and len(model.structure.labels) == 3
    torch.testing.assert_close(model.state_dict()["head.output.weight"], own["score.weight"])


def test_what_is_no_plain_adapter_of_this_base_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    saved_text(base, "llama", "ForCausalLM")
    good = halves(base)
    odd: list[tuple[str, dict[str, torch.Tensor], dict[str, Any], str]] = [
        ("org/nowhere", good, {}, "its base 'org/nowhere' is not on this machine; fetch it .hf download org/nowhere"),
        ("../base", good, {"peft_type": "IA3"}, "adapters of the kind 'IA3' are not read"),
        ("../base", good, {"use_dora": True}, "use_dora = True is not read; merge the adapter with peft"),
        ("../base", good, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' is not read"),
        ("../base", {name: one for name, one in good.items() if "lora_A" in name}, {}, "lacks its other half"),
        ("../base", {name.replace("q_proj", "qq"): one for name, one in good.items()}, {}, "lacks a map in the base"),
        ("../base", {name: one.T.contiguous() for name, one in good.items()}, {}, "adapter_model.safetensors: .* map"),
    ]
    for index, (name, tensors, config, message) in enumerate(odd):
        folder = adapter(tmp_path / f"odd-{index}", name, tensors, **config)
        with pytest.raises(InputError, match=message) as refused:
            zoo.locate(str(folder))
        assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache").rglob("model.safetensors")), "nothing half-written"


def hub_cache(root: Path, name: str) -> Path:
    """A model as the hub's client keeps it: links from a snapshot into blobs."""
    folder = root / f"models--{name.replace('/', '--')}"
    saved_text(root / "plain", "llama", "ForCausalLM")
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for index, file in enumerate(sorted((root / "plain").iterdir())):
        file.rename(folder / "blobs" / str(index))
        (snapshot / file.name).symlink_to(os.path.relpath(folder / "blobs" / str(index), snapshot))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    return folder


def test_a_folder_of_the_hub_s_cache_is_its_main_snapshot_and_holds_bases_of_adapters(tmp_path: Path) -> None:
    folder = hub_cache(tmp_path / "hf" / "hub", "some/base")
    snapshot = zoo.locate(str(folder))
    assert snapshot == folder / "snapshots" / "0123abcd"
    assert read_checkpoint(snapshot, {}).structure.task == "causal-lm"
    made = zoo.locate(str(adapter(tmp_path / "adapter", "some/base", halves(snapshot))))
    assert read_checkpoint(made, {}).structure.task == "causal-lm"
    (folder / "snapshots" / "4567").mkdir()
    (folder / "refs" / "main").write_text("gone")
    with pytest.raises(InputError, match=r"refs/main names none of its snapshots \(0123abcd, 4567\); give one of them"):
        zoo.locate(str(folder))
