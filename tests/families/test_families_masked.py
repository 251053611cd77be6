"""Heads of masked language models: the scores of transformers, tied or not, wherever a family keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.text_checkpoints import batch_of, saved_class, saved_text

from compress import tasks
from compress.model.heads.embedding import EmbeddingSpec
from compress.model.heads.masked_language_model import MaskedLanguageModelSpec
from compress.tasks import read_checkpoint
from targets.errors import InputError

_SMALL = {"num_hidden_layers": 2, "intermediate_size": 20, "hidden_size": 12, "num_attention_heads": 3}
_OTHERS: dict[str, dict[str, Any]] = {
    "Electra": {**_SMALL, "max_position_embeddings": 18, "embedding_size": 7},
    "MPNet": {**_SMALL, "max_position_embeddings": 18},
    "ModernBert": {**_SMALL, "cls_token_id": 0, "sep_token_id": 2, "decoder_bias": True},
}


def held(folder: Path, original: Any) -> MaskedLanguageModelSpec:
    """The head that was read, once its scores of real tokens are those of the original."""
    batch = batch_of("right")
    model = read_checkpoint(folder, {})
    with torch.no_grad():
        apart = (model(batch) - original(**batch).logits)[batch["attention_mask"].bool()]
    assert float(apart.abs().max()) < 1e-4
    assert model.structure.task == "masked-lm" and isinstance(model.structure.head, MaskedLanguageModelSpec)
    return model.structure.head


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "albert"])
@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    original = saved_text(tmp_path, family, "ForMaskedLM", tie_word_embeddings=tied)
    head = held(tmp_path, original)
    assert head.tied is tied and head.bias and head.width == (7 if family == "albert" else 12)


@pytest.mark.parametrize("stem", _OTHERS)
def test_scores_of_other_families_are_those_of_transformers(tmp_path: Path, stem: str) -> None:
    assert held(tmp_path, saved_class(tmp_path, f"{stem}ForMaskedLM", f"{stem}Config", **_OTHERS[stem])).tied


def test_a_head_that_is_tied_and_has_another_table_is_refused(tmp_path: Path) -> None:
    saved_text(tmp_path, "bert", "ForMaskedLM")
    weights = load_file(tmp_path / "model.safetensors")
    own = weights["bert.embeddings.word_embeddings.weight"] + 1
    save_file({**weights, "cls.predictions.decoder.weight": own}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"the weights hold another cls\.predictions\.decoder\.weight"):
        read_checkpoint(tmp_path, {})


def test_weights_without_the_head_are_refused(tmp_path: Path) -> None:
    saved_text(tmp_path, "bert", "ForMaskedLM")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: one for name, one in weights.items() if "cls." not in name}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lack 'cls\.predictions\.transform\.dense\.weight'"):
        read_checkpoint(tmp_path, {})


def test_a_family_without_such_a_head_says_what_it_has(tmp_path: Path) -> None:
    saved_class(tmp_path, "GPT2LMHeadModel", "GPT2Config", n_embd=12, n_layer=1, n_head=2, vocab_size=20, n_positions=9)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2ForMaskedLM"]}))
    with pytest.raises(InputError, match="is not supported for this family, only classes for"):
        read_checkpoint(tmp_path, {})


def test_the_body_is_an_embedding_in_a_folder_of_sentence_transformers_and_as_a_bare_class(tmp_path: Path) -> None:
    saved_text(tmp_path, "bert", "ForMaskedLM")
    assert tasks.of_folder(tmp_path).name == "masked-lm"
    (tmp_path / "modules.json").write_text("[]")
    assert tasks.of_folder(tmp_path).name == "embedding"
    assert isinstance(read_checkpoint(tmp_path, {}).structure.head, EmbeddingSpec)
    (tmp_path / "modules.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    assert isinstance(read_checkpoint(tmp_path, {}).structure.head, EmbeddingSpec)
