"""A tiny random translator of transformers, what is read of it, its tokenizer and pairs of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from compress import tasks
from compress.model import Transformer
from compress.model.forms.source_to_target import SourceToTarget
from compress.rewrites import Calibration
from compress.tasks import read_checkpoint
from runtime.texts.text import TARGET
from support.text_checkpoints import saved_class

WORDS = [f"w{index}" for index in range(36)]
END, UNKNOWN, PAD = 0, 1, 2
#: A vocabulary of words and three special tokens.
VOCABULARY = len(WORDS) + 3
CONFIG = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "scale_embedding": True,
    "activation_function": "relu",
    "pad_token_id": PAD,
    "eos_token_id": END,
    "decoder_start_token_id": PAD,
    "forced_eos_token_id": END,
}


def saved_translator(folder: Path, seed: int = 0) -> Any:
    """A model of Marian's layout in `folder`, with a tokenizer of words."""
    original = saved_class(folder, "MarianMTModel", "MarianConfig", seed=seed, **CONFIG)
    words = {"</s>": END, "<unk>": UNKNOWN, "<pad>": PAD, **{word: at + 3 for at, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.add_special_tokens(["</s>", "<unk>", "<pad>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer.save(str(folder / "tokenizer.json"))
    generation = {"decoder_start_token_id": PAD, "eos_token_id": END, "bad_words_ids": [[PAD]], "max_length": 24}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return original


def translator() -> Transformer:
    """The same model as it is read."""
    with TemporaryDirectory() as folder:
        saved_translator(Path(folder))
        return read_checkpoint(Path(folder), tasks.of_folder(Path(folder)).preprocessing(Path(folder), print))


def translator_calibration(model: Transformer) -> Calibration:
    """Pairs of random tokens of one length each, with this model as the original."""

    def batches() -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            source, target = (torch.randint(3, VOCABULARY, (4, size), generator=generator) for size in (7, 5))
            yield {"input_ids": source, "attention_mask": torch.ones_like(source), TARGET: target}

    return Calibration(model, batches, note=lambda text: None)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random texts of 2 to 9 words."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=draw.integers(2, 10))) for _ in range(count)]


class TorchRows:
    """A model in torch as the rows that `runtime.texts.search` feeds."""

    def __init__(self, model: Transformer, source: dict[str, Tensor], states: dict[str, Tensor] | None = None) -> None:
        self.steps, self.source = SourceToTarget(model), source
        batch = len(source["input_ids"])
        self.states = {one.past: one.fresh(batch) for one in self.steps.flat} if states is None else states

    @torch.no_grad()
    def likeliest(self, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        call = {**self.source, TARGET: torch.from_numpy(tokens)[:, None], **self.states}
        found = dict(zip(self.steps.outputs, self.steps(call), strict=True))
        self.states = {one.past: found[one.present] for one in self.steps.flat}
        values, places = found["logits"][:, -1].log_softmax(-1).topk(min(count, VOCABULARY))
        return values.numpy(), places.numpy()

    def select(self, rows: Any) -> TorchRows:
        source, states = ({name: one[list(rows)] for name, one in some.items()} for some in (self.source, self.states))
        return TorchRows(self.steps.model, source, states)
