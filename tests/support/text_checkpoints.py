"""Small random checkpoints of Hugging Face text classes, and batches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

VOCABULARY, PAD = 23, 1
_ENCODER = {"num_hidden_layers": 2, "intermediate_size": 20, "max_position_embeddings": 18}
#: Family -> the stem of its classes and a small config (hidden size and heads are given apart).
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _ENCODER),
    "roberta": ("Roberta", _ENCODER),
    "xlm-roberta": ("XLMRoberta", _ENCODER),
    "distilbert": ("DistilBert", {"n_layers": 2, "hidden_dim": 20, "max_position_embeddings": 18}),
    "albert": ("Albert", _ENCODER | {"num_hidden_layers": 5, "num_hidden_groups": 2, "embedding_size": 7}),
    "gpt2": ("GPT2", {"n_layer": 2, "n_positions": 18}),
    "llama": ("Llama", {"num_hidden_layers": 2, "intermediate_size": 20}),
    "qwen2": ("Qwen2", {"num_hidden_layers": 2, "intermediate_size": 20, "num_key_value_heads": 3}),
    "mistral": (
        "Mistral",
        {"num_hidden_layers": 2, "intermediate_size": 20, "num_key_value_heads": 3, "sliding_window": None},
    ),
}
_SIZES = {
    "distilbert": ("dim", "n_heads"),
    "gpt2": ("n_embd", "n_head"),
}


def saved_text(
    folder: Path, family: str, kind: str, *, heads: int = 3, head_size: int = 4, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A model of the family's class that ends in `kind`, with weights at which every part matters, and its checkpoint
    in `folder`. Dropout is off."""
    stem, sizes = FAMILIES[family]
    width, count = _SIZES.get(family, ("hidden_size", "num_attention_heads"))
    options = {**sizes, width: heads * head_size, count: heads, **changes}
    return saved_class(folder, f"{stem}{kind}", f"{stem}Config", seed=seed, **options)


def saved_class(folder: Path, name: str, config_name: str, *, seed: int = 0, **options: Any) -> PreTrainedModel:
    """A model of this class of transformers, with weights at which every part matters, and its checkpoint in
    `folder`."""
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
    config = getattr(transformers, config_name)(**{**tokens, **options})
    config._attn_implementation = config._experts_implementation = "eager"
    model: PreTrainedModel = getattr(transformers, name)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue  # positions that are computed and never trained
            noise = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if gain else noise * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    return model


def batch_of(side: Literal["left", "right"], length: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Three random sequences of different lengths (B,N), padded on one side."""
    generator = torch.Generator().manual_seed(seed)
    ids_BN = torch.randint(PAD + 1, VOCABULARY, (3, length), generator=generator)
    padded_B1 = torch.tensor([[0], [2], [length - 1]])
    place_N = torch.arange(length)
    real_BN = place_N >= padded_B1 if side == "left" else place_N < length - padded_B1
    return {"input_ids": torch.where(real_BN, ids_BN, PAD), "attention_mask": real_BN.long()}
