"""Heads of tokens and of masks where few families have them compute what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.text_checkpoints import PAD, VOCABULARY, batch_of, saved_class

from compress import tasks
from compress.tasks import read_checkpoint

SECTION = {"kind": "text", "vocab_size": VOCABULARY, "max_length": 15, "pad_id": PAD}
SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
}
DECODER = SIZES | {"num_key_value_heads": 3, "head_dim": 4}


@pytest.mark.parametrize(
    ("name", "config", "options", "output"),
    [
        ("DebertaV2ForMaskedLM", "DebertaV2Config", SIZES, "logits"),
        ("DebertaV2ForMaskedLM", "DebertaV2Config", SIZES | {"legacy": False}, "logits"),
        ("NomicBertForMaskedLM", "NomicBertConfig", SIZES, "logits"),
        ("BertForPreTraining", "BertConfig", SIZES, "prediction_logits"),
        ("AlbertForPreTraining", "AlbertConfig", SIZES | {"embedding_size": 7}, "prediction_logits"),
        ("ModernBertForTokenClassification", "ModernBertConfig", SIZES, "logits"),
        ("Qwen3ForTokenClassification", "Qwen3Config", DECODER, "logits"),
        ("Gemma2ForSequenceClassification", "Gemma2Config", DECODER, "logits"),
    ],
)
def test_the_head_gives_the_logits_of_the_original_library(
    tmp_path: Path, name: str, config: str, options: dict[str, Any], output: str
) -> None:
    theirs = saved_class(tmp_path, name, config, **options)
    ours, inputs = read_checkpoint(tmp_path, SECTION), batch_of("right", 11)
    assert tasks.of_folder(tmp_path).name == ours.structure.task
    with torch.no_grad():
        wanted, given = theirs(**inputs)[output], ours(inputs)
    if given.ndim == 3:
        wanted, given = (one[inputs["attention_mask"].bool()] for one in (wanted, given))
    assert wanted.shape == given.shape
    assert float((wanted - given).abs().max()) < 1e-4
