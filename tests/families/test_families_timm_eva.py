"""EVA and EVA-02 in timm's layout compute what plain torch, written after timm's `eva.py`, computes.

B batch, N tokens, D hidden size, H heads, K head size, F intermediate size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import pixels
from support.rewriting import rewritten
from torch import Tensor
from torch.nn import functional as F

from compress import tasks
from compress.tasks import read_checkpoint
from targets.errors import InputError

Tensors = dict[str, Tensor]
_HEADS, _WIDTH, _INNER, _GRID, _CLASSES = 2, 16, 20, (3, 2), 5
_IMAGE = (12, 8)


def tensors_of(*, packed: bool, gated: str, normed: bool, scaled: bool, fc_norm: bool, classes: int) -> Tensors:
    torch.manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, _WIDTH),
        "pos_embed": (1, 7, _WIDTH),
        "patch_embed.proj.weight": (_WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (_WIDTH,),
        **_normed("fc_norm" if fc_norm else "norm", _WIDTH),
        **(_linear("head", classes, _WIDTH) if classes else {}),
    }
    for index in range(2):
        block = f"blocks.{index}."
        shapes |= _normed(f"{block}norm1", _WIDTH) | _normed(f"{block}norm2", _WIDTH)
        shapes |= _linear(f"{block}attn.proj", _WIDTH, _WIDTH) | _linear(f"{block}mlp.fc2", _WIDTH, _INNER)
        if packed:
            shapes[f"{block}attn.qkv.weight"] = (3 * _WIDTH, _WIDTH)
            shapes |= {f"{block}attn.{one}_bias": (_WIDTH,) for one in "qv"}
        else:
            shapes |= {f"{block}attn.{one}_proj.weight": (_WIDTH, _WIDTH) for one in "qkv"}
            shapes |= {f"{block}attn.{one}_proj.bias": (_WIDTH,) for one in "qv"}
        if gated == "split":
            shapes |= _linear(f"{block}mlp.fc1_g", _INNER, _WIDTH) | _linear(f"{block}mlp.fc1_x", _INNER, _WIDTH)
        else:
            shapes |= _linear(f"{block}mlp.fc1", (2 if gated else 1) * _INNER, _WIDTH)
        if normed:
            shapes |= _normed(f"{block}mlp.norm", _INNER)
        if scaled:
            shapes |= {f"{block}gamma_{half}": (_WIDTH,) for half in (1, 2)}
    return {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}


def _linear(name: str, out: int, given: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}


def _normed(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def write(folder: Path, tensors: Tensors, **config: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    made = {
        "input_size": [3, *_IMAGE],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    base = {"architecture": "eva02_tiny_patch4_12", "num_classes": _CLASSES, "global_pool": "avg"}
    arguments = {"num_heads": _HEADS}
    (folder / "config.json").write_text(json.dumps(base | {"pretrained_cfg": made, "model_args": arguments} | config))


def original(w: Tensors, x_BCYX: Tensor, counted: tuple[int, int] | None, pool: str) -> Tensor:
    """Logits, or the vector where there is no head, as timm makes them. `counted`: its `ref_feat_shape`; None where
    nothing turns."""
    patches_BPD = F.conv2d(x_BCYX, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 4).flatten(2).mT
    x_BND = torch.cat([w["cls_token"].expand(len(x_BCYX), -1, -1), patches_BPD], 1) + w["pos_embed"]
    angles_PK = None if counted is None else _angles(counted)
    for index in range(2):
        of_block = f"blocks.{index}."
        part = {name.removeprefix(of_block): one for name, one in w.items() if name.startswith(of_block)}
        x_BND = x_BND + part.get("gamma_1", 1) * _attend(part, _norm(part, "norm1", x_BND), angles_PK)
        x_BND = x_BND + part.get("gamma_2", 1) * _feed(part, _norm(part, "norm2", x_BND))
    if "norm.weight" in w:
        x_BND = _norm(w, "norm", x_BND)
    x_BD = x_BND[:, 0] if pool == "token" else x_BND[:, 1:].mean(1)
    if "fc_norm.weight" in w:
        x_BD = _norm(w, "fc_norm", x_BD)
    return F.linear(x_BD, w["head.weight"], w["head.bias"]) if "head.weight" in w else x_BD


def _angles(counted: tuple[int, int]) -> Tensor:
    """By what each number of a head turns (P,K): a pair stands side by side, those of the rows before the columns."""
    quarter = _WIDTH // _HEADS // 4
    bands = [10000 ** -(one / quarter) for one in range(quarter)]
    rows = []
    for y in range(_GRID[0]):
        for x in range(_GRID[1]):
            places = y / _GRID[0] * counted[0], x / _GRID[1] * counted[1]
            rows.append([place * band for place in places for band in bands for _ in range(2)])
    return torch.tensor(rows)


def _attend(w: Tensors, x_BND: Tensor, angles_PK: Tensor | None) -> Tensor:
    if "attn.qkv.weight" in w:
        bias = torch.cat([w["attn.q_bias"], torch.zeros(_WIDTH), w["attn.v_bias"]])
        maps = F.linear(x_BND, w["attn.qkv.weight"], bias).chunk(3, -1)
    else:
        maps = tuple(F.linear(x_BND, w[f"attn.{one}_proj.weight"], w.get(f"attn.{one}_proj.bias")) for one in "qkv")
    q, k, v = (one.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for one in maps)
    if angles_PK is not None:
        q, k = (torch.cat([one[:, :, :1], _turned(one[:, :, 1:], angles_PK)], 2) for one in (q, k))
    mixed = (q @ k.mT / (_WIDTH // _HEADS) ** 0.5).softmax(-1) @ v
    return F.linear(mixed.transpose(1, 2).flatten(2), w["attn.proj.weight"], w["attn.proj.bias"])


def _turned(x_BHPK: Tensor, angles_PK: Tensor) -> Tensor:
    quarter_turned = torch.stack([-x_BHPK[..., 1::2], x_BHPK[..., ::2]], -1).reshape(x_BHPK.shape)
    return x_BHPK * angles_PK.cos() + quarter_turned * angles_PK.sin()


def _feed(w: Tensors, x_BND: Tensor) -> Tensor:
    if "mlp.fc1_g.weight" in w:
        gate = F.linear(x_BND, w["mlp.fc1_g.weight"], w["mlp.fc1_g.bias"])
        x_BNF = F.silu(gate) * F.linear(x_BND, w["mlp.fc1_x.weight"], w["mlp.fc1_x.bias"])
    else:
        x_BNF = F.linear(x_BND, w["mlp.fc1.weight"], w["mlp.fc1.bias"])
        gated = x_BNF.shape[-1] == 2 * _INNER
        x_BNF = F.silu(x_BNF[..., :_INNER]) * x_BNF[..., _INNER:] if gated else F.gelu(x_BNF)
    if "mlp.norm.weight" in w:
        x_BNF = _norm(w, "mlp.norm", x_BNF)
    return F.linear(x_BNF, w["mlp.fc2.weight"], w["mlp.fc2.bias"])


def _norm(w: Tensors, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)


PARTS: dict[str, Any] = {
    "packed": True,
    "gated": "packed",
    "normed": False,
    "scaled": False,
    "fc_norm": True,
    "classes": _CLASSES,
}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int] | None, str]] = {
    "small EVA-02": ({}, {}, (16, 16), "avg"),
    "large EVA-02": ({"packed": False, "gated": "split", "normed": True}, {}, (16, 16), "avg"),
    "first token": (
        {"packed": False, "gated": "split", "normed": True, "fc_norm": False},
        {"global_pool": "token"},
        (16, 16),
        "token",
    ),
    "counted on its own grid": (
        {},
        {"model_args": {"num_heads": _HEADS, "ref_feat_shape": None}},
        _GRID,
        "avg",
    ),
    "EVA": ({"gated": "", "scaled": True}, {"architecture": "eva_giant_patch4_12"}, None, "avg"),
    "vector": ({"classes": 0}, {"num_classes": 0}, (16, 16), "avg"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_a_layout_computes_what_timm_computes(tmp_path: Path, name: str) -> None:
    parts, config, counted, pool = LAYOUTS[name]
    tensors = tensors_of(**(PARTS | parts))
    write(tmp_path / "eva", tensors, **config)
    task, notes = tasks.of_folder(tmp_path / "eva"), list[str]()
    model = read_checkpoint(tmp_path / "eva", task.preprocessing(tmp_path / "eva", notes.append), notes.append)
    given, wanted = model({"pixel_values": pixels(3, *_IMAGE)}), original(tensors, pixels(3, *_IMAGE), counted, pool)
    assert wanted.std() > 0.1 and notes == []
    torch.testing.assert_close(given, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("tensor", "config", "fault"),
    [
        ("", {"architecture": "eva02_enormous_patch14_clip_224"}, "of timm is not read, only vit, deit, eva and eva02"),
        ("", {"architecture": "vit_small_patch16_rope_ape_224"}, "of timm is not read, only vit, deit, eva and eva02"),
        ("", {"model_args": {"num_heads": _HEADS, "use_post_norm": True}}, "model_args use_post_norm = True is not"),
        ("", {"model_args": {"num_heads": _HEADS, "ref_feat_shape": "16"}}, "ref_feat_shape = '16' is not read"),
        ("blocks.0.attn.norm.weight", {}, "a norm inside the attention, is not read"),
        ("blocks.0.attn.k_bias", {}, "'blocks.0.attn.k_bias', which a 'timm' model does not have"),
        ("", {"model_args": {"num_heads": 8}}, "heads of 2 numbers do not turn in two directions"),
    ],
)
def test_a_layout_that_is_not_read_says_why(tmp_path: Path, tensor: str, config: dict[str, Any], fault: str) -> None:
    tensors = tensors_of(**PARTS)
    write(tmp_path / "eva", tensors | ({tensor: torch.ones(_WIDTH)} if tensor else {}), **config)
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path / "eva", {"size": list(_IMAGE)})


def test_hidden_units_under_a_norm_are_not_pruned(tmp_path: Path) -> None:
    write(tmp_path / "eva", tensors_of(**(PARTS | {"packed": False, "gated": "split", "normed": True})))
    model = read_checkpoint(tmp_path / "eva", {"size": list(_IMAGE)})
    with pytest.raises(InputError, match="a norm over the hidden units of a chosen layer reads all of them"):
        rewritten(model, "prune-neurons", keep=10)
