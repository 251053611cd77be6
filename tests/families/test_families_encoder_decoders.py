"""Each layout of encoder-decoders computes what transformers computes: with padding, and step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.text_checkpoints import PAD, VOCABULARY, batch_of, saved_class
from torch import Tensor

from compress.model import Transformer, load, save
from compress.model.forms.source_to_target import SourceToTarget
from compress.stages.original import held_against_original
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4
_BART = {
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 14,
    "max_position_embeddings": 24,
    "decoder_start_token_id": 2,
    "pad_token_id": PAD,
}
_T5 = {
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
    "decoder_start_token_id": 0,
}
#: Name -> stem of the classes, end of the class and the config.
LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "marian": ("Marian", "MTModel", _BART | {"scale_embedding": True, "activation_function": "swish"}),
    "marian, two tables": ("Marian", "MTModel", _BART | {"share_encoder_decoder_embeddings": False}),
    "bart": ("Bart", "ForConditionalGeneration", _BART),
    "bart, scores of their own": ("Bart", "ForConditionalGeneration", _BART | {"tie_word_embeddings": False}),
    "mbart": ("MBart", "ForConditionalGeneration", _BART | {"scale_embedding": True}),
    "m2m_100": ("M2M100", "ForConditionalGeneration", _BART | {"scale_embedding": True}),
    "pegasus": ("Pegasus", "ForConditionalGeneration", _BART | {"scale_embedding": True}),
    "t5": ("T5", "ForConditionalGeneration", _T5),
    "t5 1.1": (
        "T5",
        "ForConditionalGeneration",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5", "ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
}
EVERY = pytest.mark.parametrize("layout", LAYOUTS)


def pair(layout: str, folder: Path, seed: int = 0) -> tuple[Any, Transformer, dict[str, Tensor]]:
    """The original, what is read of its checkpoint, and three sources padded on the right with targets (B,N)."""
    stem, end, config = LAYOUTS[layout]
    original = saved_class(folder, f"{stem}{end}", f"{stem}Config", seed=seed, **config)
    inputs = batch_of("right", seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    inputs["decoder_input_ids"] = torch.randint(3, VOCABULARY, (3, 7), generator=generator)
    return original, read_checkpoint(folder, {"vocab_size": VOCABULARY, "max_length": 24}), inputs


@EVERY
@torch.no_grad()
def test_a_family_gives_the_scores_of_transformers_for_padded_sources(layout: str, tmp_path: Path) -> None:
    for seed in range(2):
        original, model, inputs = pair(layout, tmp_path, seed)
        gap = float((model(inputs) - original(**inputs).logits).abs().max())
        assert gap <= TOLERANCE


@EVERY
@torch.no_grad()
def test_a_decoder_fed_token_by_token_gives_the_scores_of_the_whole(layout: str, tmp_path: Path) -> None:
    _, model, inputs = pair(layout, tmp_path)
    steps = SourceToTarget(model)
    states = {state.past: state.fresh(3) for state in steps.flat}
    given = []
    for token_B in inputs["decoder_input_ids"].T:
        call = {**inputs, "decoder_input_ids": token_B[:, None], **states}
        found = dict(zip(steps.outputs, steps(call), strict=True))
        given.append(found["logits"])
        states = {state.past: found[state.present] for state in steps.flat}
    assert torch.allclose(torch.cat(given, dim=1), model(inputs), atol=1e-5)


@torch.no_grad()
def test_the_classifier_of_bart_reads_the_end_of_a_text_that_its_decoder_follows(tmp_path: Path) -> None:
    options = _BART | {"eos_token_id": 2, "num_labels": 3}
    original = saved_class(tmp_path, "BartForSequenceClassification", "BartConfig", **options)
    inputs = batch_of("right")
    ids_BN = torch.where(inputs["input_ids"] == 2, 3, inputs["input_ids"])
    ids_BN[range(3), inputs["attention_mask"].sum(1) - 1] = 2
    inputs["input_ids"] = ids_BN
    model = read_checkpoint(tmp_path, {"vocab_size": VOCABULARY, "max_length": 24, "pad_id": PAD})
    assert model.structure.task == "text-classification" and model.structure.follows == 2
    assert torch.allclose(model(inputs), original(**inputs).logits, atol=TOLERANCE)
    save(model, tmp_path / "own")
    assert torch.equal(load(tmp_path / "own")(inputs), model(inputs))
    assert "off by" in held_against_original(tmp_path, model)


def test_the_classifier_of_mbart_is_refused(tmp_path: Path) -> None:
    saved_class(tmp_path, "MBartForSequenceClassification", "MBartConfig", **_BART)
    with pytest.raises(InputError, match=r"'MBartForSequenceClassification'.* only classes for text-to-text"):
        read_checkpoint(tmp_path, {"vocab_size": VOCABULARY, "max_length": 24})


@torch.no_grad()
def test_a_shared_table_is_stored_once_and_read_again(tmp_path: Path) -> None:
    _, model, inputs = pair("marian", tmp_path)
    save(model, tmp_path / "own")
    again = load(tmp_path / "own")
    assert "encoder.embed.table" not in model.state_dict()
    assert torch.equal(again(inputs), model(inputs))
    copy = model.copy()
    copy.embed.table.zero_()
    assert not torch.equal(copy(inputs), model(inputs)), "the copy's encoder reads the copy's table"
    assert torch.equal(again(inputs), model(inputs))
