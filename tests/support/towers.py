"""Small random models of two towers, as their users save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from support.tiny_texts import WORDS, write_tokenizer

_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
IMAGES = {**_SIZES, "image_size": 8, "patch_size": 4}
TEXTS = {
    **_SIZES,
    "vocab_size": 4 + len(WORDS),
    "max_position_embeddings": 16,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
}


def towers_folder(folder: Path, name: str, **text: Any) -> PreTrainedModel:
    """A CLIP or Siglip of the original library, with weights at which every part matters, with its processor and a
    tokenizer of a few words, in `folder`."""
    more = {"projection_dim": 7} if name == "CLIP" else {}
    config = getattr(transformers, f"{name}Config")(
        vision_config=IMAGES, text_config={**TEXTS, "projection_size": 12, **text}, **more
    )
    model: PreTrainedModel = getattr(transformers, f"{name}Model")(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=generator) * (0.3 if one.ndim != 2 else one.shape[-1] ** -0.5))
    model.save_pretrained(folder)
    processor(folder, f"{name}ImageProcessor")
    write_tokenizer(["[UNK]", "[PAD]", "[SEP]", "[CLS]", *WORDS], folder)
    return model


def processor(folder: Path, kind: str) -> None:
    """The settings of an image processor of this class for images of 8 x 8."""
    settings = {
        "image_processor_type": kind,
        "size": {"height": 8, "width": 8},
        "do_center_crop": False,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
