"""The config.json files of popular checkpoints, as their public folders have them (older names of options included),
are read whole, at full width: two layers of random weights and a smaller vocabulary compute what transformers does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from compress import tasks
from compress.stages.original import held_against_original
from targets.errors import InputError

#: Layers and rows of tables; everything else is as it is published.
LAYERS, VOCABULARY = 2, 1000
_BERT: dict[str, Any] = {
    **{"model_type": "bert", "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False},
    **{"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02},
    **{"intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 12},
    **{"num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2},
    **{"transformers_version": "4.6.0.dev0", "use_cache": True, "vocab_size": 30522},
}
_SMALL = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
_LLAMA3 = {
    **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0},
    **{"original_max_position_embeddings": 8192, "rope_type": "llama3"},
}
POPULAR: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {**_BERT, "architectures": ["BertForMaskedLM"]},
    "ms-marco-MiniLM-L6-v2": {
        **{**_BERT, **_SMALL, "architectures": ["BertForSequenceClassification"], "classifier_dropout": None},
        **{"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0.dev0"},
    },
    "all-mpnet-base-v2": {
        **{"_name_or_path": "microsoft/mpnet-base", "architectures": ["MPNetModel"], "model_type": "mpnet"},
        **{"attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu"},
        **{"hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072},
        **{"layer_norm_eps": 1e-5, "max_position_embeddings": 514, "num_attention_heads": 12, "pad_token_id": 1},
        **{"num_hidden_layers": 12, "relative_attention_num_buckets": 32, "transformers_version": "4.8.2"},
        "vocab_size": 30527,
    },
    "Llama-3.2-1B": {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False},
        **{"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 64, "hidden_act": "silu"},
        **{"hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "mlp_bias": False},
        **{"max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16},
        **{"num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": _LLAMA3},
        **{"rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True},
        **{"transformers_version": "4.45.0.dev0", "vocab_size": 128256},
    },
    "Qwen3-0.6B": {
        **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False},
        **{"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu"},
        **{"hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072, "max_window_layers": 28},
        **{"max_position_embeddings": 40960, "num_attention_heads": 16, "num_hidden_layers": 28},
        **{"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000},
        **{"sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True},
        **{"transformers_version": "4.51.0", "use_sliding_window": False, "vocab_size": 151936},
    },
    "gemma-3-270m": {
        **{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "_sliding_window_pattern": 6},
        **{"attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2},
        **{"eos_token_id": 1, "final_logit_softcapping": None, "head_dim": 256, "hidden_size": 640},
        **{"hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "intermediate_size": 2048},
        **{"layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 32768},
        **{"num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0},
        **{"query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000.0, "rope_scaling": None},
        **{"rope_theta": 1000000.0, "sliding_window": 512, "torch_dtype": "bfloat16", "use_cache": True},
        **{"transformers_version": "4.55.0.dev0", "use_bidirectional_attention": False, "vocab_size": 262144},
    },
    "ModernBERT-base": {
        **{"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "attention_bias": False},
        **{"attention_dropout": 0.0, "bos_token_id": 2, "classifier_activation": "gelu", "classifier_bias": False},
        **{"classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 2, "decoder_bias": True},
        **{"deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 3, "sep_token_id": 3},
        **{"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False},
        **{"hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0, "norm_bias": False},
        **{"initializer_range": 0.02, "intermediate_size": 1152, "layer_norm_eps": 1e-5, "local_attention": 128},
        **{"local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0},
        **{"norm_eps": 1e-5, "num_attention_heads": 12, "num_hidden_layers": 22, "pad_token_id": 0},
        **{"position_embedding_type": "absolute", "reference_compile": None, "sparse_prediction": False},
        **{"tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": "4.47.0.dev0"},
        "vocab_size": 50368,
    },
    "vit-base-patch16-224": {
        **{"architectures": ["ViTForImageClassification"], "model_type": "vit", "image_size": 224, "patch_size": 16},
        **{"attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 768},
        **{"initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "num_attention_heads": 12},
        **{"num_channels": 3, "num_hidden_layers": 12, "qkv_bias": True, "transformers_version": "4.13.0.dev0"},
        "id2label": {str(place): f"class {place}" for place in range(1000)},
    },
    "siglip-base-patch16-224": {
        **{"architectures": ["SiglipModel"], "model_type": "siglip", "initializer_factor": 1.0},
        "text_config": {"model_type": "siglip_text_model", "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS},
        "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": LAYERS},
        **{"torch_dtype": "float32", "transformers_version": "4.37.0.dev0"},
    },
    "dinov2-small": {
        **{"architectures": ["Dinov2Model"], "model_type": "dinov2", "apply_layernorm": True, "drop_path_rate": 0.0},
        **{"attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 384},
        **{"image_size": 518, "initializer_range": 0.02, "layer_norm_eps": 1e-6, "layerscale_value": 1.0},
        **{"mlp_ratio": 4, "num_attention_heads": 6, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 14},
        **{"out_features": ["stage2"], "out_indices": [2], "qkv_bias": True, "reshape_hidden_states": True},
        **{"stage_names": ["stem", "stage1", "stage2"], "use_swiglu_ffn": False, "torch_dtype": "float32"},
        "transformers_version": "4.32.0.dev0",
    },
    "dinov3-vits16-pretrain-lvd1689m": {
        **{"architectures": ["DINOv3ViTModel"], "model_type": "dinov3_vit", "attention_dropout": 0.0},
        **{"drop_path_rate": 0.0, "hidden_act": "gelu", "hidden_size": 384, "image_size": 224, "key_bias": False},
        **{"initializer_range": 0.02, "intermediate_size": 1536, "layer_norm_eps": 1e-5, "layerscale_value": 1.0},
        **{"mlp_bias": True, "num_attention_heads": 6, "num_channels": 3, "num_hidden_layers": 12, "patch_size": 16},
        **{"num_register_tokens": 4, "pos_embed_jitter": None, "pos_embed_rescale": 2.0, "pos_embed_shift": None},
        **{"proj_bias": True, "query_bias": True, "rope_theta": 100.0, "use_gated_mlp": False, "value_bias": True},
        **{"torch_dtype": "float32", "transformers_version": "4.56.0.dev0"},
    },
}


def folder_of(name: str, folder: Path) -> Path:
    """The config.json with fewer layers and rows, and random weights for it."""
    config = {**POPULAR[name]}
    if "num_hidden_layers" in config:
        config["num_hidden_layers"] = LAYERS
    if "vocab_size" in config:
        config["vocab_size"] = VOCABULARY
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    own = getattr(transformers, config["architectures"][0])
    own(own.config_class.from_pretrained(folder)).save_pretrained(folder / "own")
    (folder / "own" / "model.safetensors").rename(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", POPULAR)
def test_a_popular_config_is_read_and_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    folder, notes = folder_of(name, tmp_path), list[str]()
    texts = {"vocab_size": VOCABULARY, "max_length": 64, "pad_id": POPULAR[name].get("pad_token_id", 0)}
    model = tasks.read_checkpoint(folder, {**texts, "text": texts}, notes.append)
    line = held_against_original(folder, model)
    found = re.search(r"on 2 inputs: off by (\S+) at most", line)
    assert found is not None, line
    assert float(found[1]) < 2e-4
    assert all("layer_norm_eps" in note for note in notes if "not known" in note), notes  # ModernBERT reads norm_eps


def test_a_popular_model_of_speech_is_refused_by_its_family(tmp_path: Path) -> None:
    config = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": 80}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="unknown model_type 'whisper'"):
        tasks.read_checkpoint(tmp_path, {})
