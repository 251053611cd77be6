"""Each layout of decoders computes what transformers computes: padded on either side, and chunk by chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.text_checkpoints import PAD, VOCABULARY, saved_class
from torch import Tensor

from compress.model import Transformer, save
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4
LENGTH = 13
_SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}
_KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
_GEMMA = _SIZES | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 5}
_NEOX = {name: size for name, size in _SIZES.items() if name != "num_key_value_heads"}
_HALF = {"partial_rotary_factor": 0.5}


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **options}, "head_dim": 8}


_LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
_LONG = {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 9.0]}
_EXPERTS = _SIZES | {"num_experts_per_tok": 2, "moe_intermediate_size": 7}
_LFM2 = _SIZES | {"conv_L_cache": 3, "block_multiple_of": 8, "tie_word_embeddings": True}
#: Name -> stem of the classes and the config.
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, llama3 positions": ("Llama", _SIZES | rope("llama3", **_LLAMA3)),
    "llama, linear positions": ("Llama", _SIZES | rope("linear", factor=3.0)),
    "llama, dynamic positions": ("Llama", _SIZES | rope("dynamic", factor=3.0)),
    "llama, yarn positions": ("Llama", _SIZES | rope("yarn", **_YARN)),
    "llama, yarn positions of DeepSeek": (
        "Llama",
        _SIZES | rope("yarn", **_YARN, mscale=0.7, mscale_all_dim=0.3, beta_fast=8.0, truncate=False),
    ),
    "mistral, a window": ("Mistral", _SIZES | {"sliding_window": 4}),
    "qwen2, a window on the upper layers": (
        "Qwen2",
        _SIZES | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", _SIZES | {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3_moe, one layer dense": (
        "Qwen3Moe",
        _EXPERTS | {"head_dim": 8, "num_experts": 4, "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
    "qwen3_moe, shares as they are": ("Qwen3Moe", _EXPERTS | {"head_dim": 8, "num_experts": 3}),
    "mixtral": ("Mixtral", _EXPERTS | {"num_local_experts": 4}),
    "olmoe": ("Olmoe", _EXPERTS | {"num_experts": 4}),
    "lfm2": ("Lfm2", _LFM2 | {"layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2, biases": ("Lfm2", _LFM2 | {"layer_types": ["full_attention", "conv", "conv"], "conv_bias": True}),
    "qwen3_5": (
        "Qwen3_5",
        _SIZES
        | {"head_dim": 8, "linear_key_head_dim": 5, "linear_value_head_dim": 4, "linear_num_key_heads": 2}
        | {"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    ),
    "phi3, a window": ("Phi3", _SIZES | {"sliding_window": 5, "original_max_position_embeddings": 64}),
    "phi3, longrope positions": (
        "Phi3",
        _SIZES
        | {"hidden_size": 48, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **_LONG}}
        | {"original_max_position_embeddings": 32},
    ),
    "smollm3": ("SmolLM3", _SIZES | {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 4}),
    "granite": (
        "Granite",
        _SIZES
        | {"embedding_multiplier": 12.0, "attention_multiplier": 0.3, "tie_word_embeddings": True}
        | {"residual_multiplier": 0.22, "logits_scaling": 8.0, "attention_bias": True},
    ),
    "olmo": ("Olmo", _SIZES),
    "olmo2": ("Olmo2", _SIZES),
    "olmo3": ("Olmo3", _SIZES | {"sliding_window": 4, "layer_types": _KINDS}),
    "olmo3, yarn positions on full layers": (
        "Olmo3",
        _SIZES
        | {"sliding_window": 4, "layer_types": _KINDS, "hidden_size": 48}
        | {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 500.0, **_YARN}}},
    ),
    "stablelm": ("StableLm", _SIZES | {"hidden_size": 48, "use_qkv_bias": True}),
    "starcoder2": ("Starcoder2", _SIZES | {"sliding_window": 4}),
    "gpt_neox": ("GPTNeoX", _NEOX | {"num_attention_heads": 3, "hidden_size": 24, "rotary_pct": 0.25}),
    "gpt_neox, an odd part of a head": (
        "GPTNeoX",
        _NEOX | {"num_attention_heads": 3, "hidden_size": 36, "rotary_pct": 0.25},
    ),
    "gpt_neox, one half after the other": (
        "GPTNeoX",
        _NEOX | {"num_attention_heads": 3, "use_parallel_residual": False, "rotary_pct": 0.5},
    ),
    "gpt_neo": (
        "GPTNeo",
        {"hidden_size": 12, "num_layers": 2, "num_heads": 3, "attention_types": [[["global", "local"], 1]]}
        | {"window_size": 4, "max_position_embeddings": 24},
    ),
    "phi": ("Phi", _SIZES | {"hidden_size": 24} | _HALF),
    "phi, normed queries": (
        "Phi",
        _SIZES | {"hidden_size": 24, "qk_layernorm": True, "num_key_value_heads": 6} | _HALF,
    ),
    "opt": (
        "OPT",
        {"hidden_size": 12, "word_embed_proj_dim": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
        | {"ffn_dim": 20, "max_position_embeddings": 24},
    ),
    "bloom": ("Bloom", {"hidden_size": 12, "n_layer": 2, "n_head": 3}),
    "bloom, four heads": ("Bloom", {"hidden_size": 12, "n_layer": 2, "n_head": 4}),
    "gemma": ("Gemma", _SIZES | {"head_dim": 8}),
    "gemma2": ("Gemma2", _GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", _GEMMA | {"layer_types": _KINDS}),
}


def saved_layout(folder: Path, layout: str, kind: str = "ForCausalLM", **changes: Any) -> Any:
    stem, options = LAYOUTS[layout]
    config = f"{stem}TextConfig" if stem in ("Gemma3", "Qwen3_5") else f"{stem}Config"
    kind = f"Text{kind}" if stem == "Gemma3" and kind == "Model" else kind
    return saved_class(folder, f"{stem}{kind}", config, **options | changes)


def padded(side: str, seed: int = 0) -> dict[str, Tensor]:
    """Three sequences (B,N) padded on one side; positions count from the first real token."""
    generator = torch.Generator().manual_seed(seed)
    ids_BN = torch.randint(PAD + 1, VOCABULARY, (3, LENGTH), generator=generator)
    padding_B1, place_N = torch.tensor([[0], [2], [7]]), torch.arange(LENGTH)
    mask_BN = (place_N >= padding_B1 if side == "left" else place_N < LENGTH - padding_B1).long()
    places_BN = (mask_BN.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids_BN * mask_BN, "attention_mask": mask_BN, "position_ids": places_BN}


@torch.no_grad()
def in_chunks(model: Transformer, inputs: dict[str, Tensor], lengths: tuple[int, ...]) -> Tensor:
    """The output of a sequence that is fed in pieces."""
    specs = model.state_specs()
    assert specs is not None
    states = [
        tuple(torch.zeros(3, *(0 if size == "past" else size for size in one.shape)) for one in spec) for spec in specs
    ]  # type: ignore[misc]
    outputs, start = [], 0
    for length in lengths:
        piece = slice(start, start := start + length)
        part = {name: inputs[name][:, piece] for name in ("input_ids", "position_ids")}
        output, states = model.chunk({**part, "attention_mask": inputs["attention_mask"][:, :start]}, states)
        outputs.append(output["logits"])
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_layout_computes_the_logits_of_transformers(tmp_path: Path, layout: str) -> None:
    original = saved_layout(tmp_path, layout)
    notes: list[str] = []
    model = read_checkpoint(tmp_path, {}, notes.append)
    assert notes == []
    save(model, tmp_path / "saved")
    for side in ("left", "right"):
        inputs = padded(side)
        real_BN = inputs["attention_mask"].bool()
        # BLOOM has no places but those that it counts itself.
        given_ = {name: one for name, one in inputs.items() if name != "position_ids" or not layout.startswith("bloom")}
        theirs_TV = original(**given_).logits[real_BN]
        torch.testing.assert_close(model(inputs)[real_BN], theirs_TV, atol=TOLERANCE, rtol=0)
        chunked_TV = in_chunks(model, inputs, (5, 1, 1, 6))[real_BN]
        torch.testing.assert_close(chunked_TV, theirs_TV, atol=TOLERANCE, rtol=0)


OLD: dict[str, dict[str, Any]] = {
    "llama, llama3 positions": {"rope_scaling": {"rope_type": "llama3", **_LLAMA3}, "rope_theta": 500.0},
    "llama, linear positions": {"rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 500.0},
    "phi3, longrope positions": {"rope_scaling": {"type": "longrope", **_LONG}},
    "qwen2, a window on the upper layers": {},
    "smollm3": {},
    "gemma2": {},
    "gemma3": {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 3},
}


@pytest.mark.parametrize("layout", OLD)
@torch.no_grad()
def test_configs_of_transformers_4_mean_the_same(tmp_path: Path, layout: str) -> None:
    original = saved_layout(tmp_path, layout)
    config = json.loads((tmp_path / "config.json").read_text())
    left_out = ("rope_parameters", "layer_types", "dtype")
    old = {name: value for name, value in config.items() if name not in left_out} | OLD[layout]
    (tmp_path / "config.json").write_text(json.dumps(old | {"torch_dtype": "float32"}))
    reread = type(original).from_pretrained(tmp_path).eval()
    inputs = padded("left")
    real_BN = inputs["attention_mask"].bool()
    given_TV = read_checkpoint(tmp_path, {})(inputs)[real_BN]
    torch.testing.assert_close(given_TV, reread(**inputs).logits[real_BN], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_gemma3_that_looks_both_ways_is_an_encoder(tmp_path: Path) -> None:
    original = saved_layout(tmp_path, "gemma3", "Model", use_bidirectional_attention=True, sliding_window=8)
    inputs = padded("right")
    tokens_BND = original(**inputs).last_hidden_state
    share_BN1 = inputs["attention_mask"][..., None].float()
    model = read_checkpoint(tmp_path, {})
    assert model.state_specs() is None
    mean_BD = (tokens_BND * share_BN1).sum(1) / share_BN1.sum(1)
    torch.testing.assert_close(model(inputs), mean_BD, atol=TOLERANCE, rtol=0)


@settings(max_examples=10, deadline=None)
@given(
    layout=st.sampled_from(["qwen3", "olmo2", "gemma3", "mistral, a window"]),
    groups=st.integers(1, 3),
    sharing=st.integers(1, 3),
    half=st.integers(1, 4),
    window=st.integers(1, 14),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_layouts_hold_at_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    groups: int,
    sharing: int,
    half: int,
    window: int,
    seed: int,
) -> None:
    folder, heads = tmp_path_factory.mktemp("model"), groups * sharing
    shape = {"num_attention_heads": heads, "num_key_value_heads": groups, "hidden_size": heads * 2 * half}
    original = saved_layout(folder, layout, seed=seed, **shape, head_dim=2 * half, sliding_window=window)
    inputs = padded("left", seed)
    real_BN = inputs["attention_mask"].bool()
    given_TV = read_checkpoint(folder, {})(inputs)[real_BN]
    torch.testing.assert_close(given_TV, original(**inputs).logits[real_BN], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("layout", "config", "fault"),
    [
        ("lfm2", {"layer_types": ["conv", "mamba", "conv"]}, "layer_types must be full_attention or conv"),
        ("qwen3_5", {"layer_types": ["linear_attention"]}, "layer_types must be linear_attention or full_attention"),
        ("qwen3_5", {"head_dim": 4}, "q_proj.weight has 96 rows, not 48"),
        ("qwen3_5", {"linear_num_key_heads": 3}, "4 value heads are not a multiple of 3 key heads"),
        ("mixtral", {"num_experts_per_tok": 9}, "9 experts are chosen of 4"),
        ("mixtral", {"num_experts_per_tok": None}, "config.json lacks 'num_experts_per_tok'"),
    ],
)
def test_layouts_that_cannot_be_read_say_why(tmp_path: Path, layout: str, config: dict[str, Any], fault: str) -> None:
    saved_layout(tmp_path, layout)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, {})
