"""Decoders export with their caches: one graph for prompts and single tokens, whose text is the original's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from compress import zoo
from compress.model.forms.streaming import Streaming
from compress.tasks import read_checkpoint
from export.numerics import check_against
from export.onnx_model import export_onnx, read_info
from export.sharing import assert_shared_once
from runtime import ort

STORIES = zoo.locate("zoo:stories260k")


@pytest.fixture(scope="module")
def streaming() -> Streaming:
    return Streaming(read_checkpoint(STORIES, {}))


@pytest.fixture(scope="module")
def file(streaming: Streaming, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "model.onnx"
    example = streaming.example(2, 4, 3, torch.Generator().manual_seed(0))
    export_onnx(streaming, example, streaming.outputs, streaming.dynamic, path)
    return path


class Caches:
    """The file fed chunk by chunk; every row of a batch may have padding on its left."""

    def __init__(self, file: Path, streaming: Streaming, mask_BN: np.ndarray) -> None:
        self.model, self.states = ort.load(file, threads=1), streaming.flat
        self.mask_BM = mask_BN
        self.past = {state.past: state.fresh(len(mask_BN)).numpy() for state in self.states}
        self.done = 0

    def feed(self, ids_BN: np.ndarray) -> np.ndarray:
        """The logits (B,N,V) of the next tokens."""
        end = self.done + ids_BN.shape[1]
        new = max(0, end - self.mask_BM.shape[1])
        self.mask_BM = np.pad(self.mask_BM, ((0, 0), (0, new)), constant_values=1)
        mask_BM = self.mask_BM[:, :end]
        places_BM = np.maximum(mask_BM.cumsum(1) - 1, 0)
        inputs = {"input_ids": ids_BN, "attention_mask": mask_BM, "position_ids": places_BM[:, self.done :]}
        given = self.model.run({**inputs, **self.past})
        self.past = {state.past: given[state.present] for state in self.states}
        self.done = end
        return given["logits"]


def test_the_signature_is_optimums_with_dynamic_sizes(file: Path) -> None:
    info = read_info(file)
    assert [(one.name, one.dtype, one.shape) for one in info.inputs[:4]] == [
        ("input_ids", "int64", ("batch", "chunk")),
        ("attention_mask", "int64", ("batch", "total")),
        ("position_ids", "int64", ("batch", "chunk")),
        ("past_key_values.0.key", "float32", ("batch", 4, "past", 8)),
    ]
    names = [f"present.{layer}.{part}" for layer in range(5) for part in ("key", "value")]
    assert [one.name for one in info.outputs] == ["logits", *names]
    assert_shared_once(file)


def test_the_numbers_are_torchs_at_any_batch_chunk_and_past(file: Path, streaming: Streaming) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = [(1, 1, 0), (1, 7, 0), (3, 1, 5), (2, 6, 1), (1, 1, 300)]
    cases = [streaming.example(*size, generator) for size in sizes]
    assert check_against(streaming, file, cases)


def test_greedy_text_is_the_originals_for_200_tokens(file: Path, streaming: Streaming) -> None:
    original = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    prompt = tokenizer.encode("Once upon a time").ids
    theirs = original.generate(
        torch.tensor([prompt]),
        max_new_tokens=200,
        min_new_tokens=200,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    caches = Caches(file, streaming, np.ones((1, len(prompt)), np.int64))
    ids = list(prompt)
    logits_V = caches.feed(np.array([prompt]))[0, -1]
    for _ in range(200):
        ids.append(int(logits_V.argmax()))
        logits_V = caches.feed(np.array([[ids[-1]]]))[0, -1]
    assert ids == theirs
    assert tokenizer.decode(ids).startswith("Once upon a time, there was a little girl named Lily.")


def test_left_padding_and_chunks_change_no_logit(file: Path, streaming: Streaming) -> None:
    generator = np.random.default_rng(0)
    ids_BN = generator.integers(3, 512, (2, 12))
    mask_BN = np.ones((2, 12), np.int64)
    mask_BN[1, :5] = 0
    caches = Caches(file, streaming, mask_BN)
    fed = np.concatenate([caches.feed(ids_BN[:, start:end]) for start, end in ((0, 3), (3, 4), (4, 12))], axis=1)
    with torch.no_grad():
        for row, first in ((0, 0), (1, 5)):
            whole = streaming.model({"input_ids": torch.from_numpy(ids_BN[row : row + 1, first:])})
            np.testing.assert_allclose(fed[row, first:], whole[0].numpy(), atol=1e-4)
