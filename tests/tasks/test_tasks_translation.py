"""A translator from pairs of texts to the bundle: three graphs that one task makes, and what the device writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.jobs import asked, shipped
from support.translators import END, PAD, saved_translator, sentences

from runtime import ort
from runtime.states import SOURCE_MASK
from runtime.texts.text import INPUTS, TARGET


def greedy(original: Any, text: str) -> str:
    """What transformers writes."""
    ids = torch.tensor([[int(word[1:]) + 3 for word in text.split()] + [END]])
    settings = {"bad_words_ids": [[PAD]], "max_length": 24, "num_beams": 1, "do_sample": False}
    (wanted,) = original.generate(input_ids=ids, **settings).tolist()
    return " ".join(f"w{token - 3}" for token in wanted if token > PAD)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model, and the bundle of a run on pairs that it writes itself."""
    root = tmp_path_factory.mktemp("translation")
    original = saved_translator(root / "model")
    pairs = [(text, greedy(original, text) or "w1") for text in sentences(60)]
    (root / "pairs.tsv").write_text("\n".join(["source\ttarget", *("\t".join(pair) for pair in pairs)]) + "\n")
    return original, shipped(root / "model", root / "pairs.tsv", root, "gate.min_samples=10", max_drop=60)


def test_the_graphs_of_the_task_ship_with_golden_samples_of_each(setting: tuple[Any, Path]) -> None:
    manifest = json.loads((setting[1] / "manifest.json").read_text())
    assert manifest["task"] == "text-to-text" and manifest["schema"] == 2
    assert list(manifest["graphs"]) == ["model", "encoder", "decoder"]
    assert {"golden.npz", "golden.encoder.npz", "golden.decoder.npz"} <= manifest["files"].keys()
    assert {name: bool(graph["state"]) for name, graph in manifest["graphs"].items()} == {
        "model": False,
        "encoder": False,
        "decoder": True,
    }


def test_golden_samples_of_the_decoder_are_what_the_encoder_makes_of_those_of_the_whole(
    setting: tuple[Any, Path],
) -> None:
    whole, encoder, decoder = (np.load(setting[1] / f"golden{name}.npz") for name in ("", ".encoder", ".decoder"))
    ids, mask = INPUTS
    for name in INPUTS:
        np.testing.assert_array_equal(encoder[f"input_{name}"], whole[f"input_{name}"])
    np.testing.assert_array_equal(decoder[f"input_{ids}"], whole[f"input_{TARGET}"])
    np.testing.assert_array_equal(decoder[f"input_{SOURCE_MASK}"], whole[f"input_{mask}"])
    np.testing.assert_allclose(decoder["output_logits"], whole["output_logits"], atol=1e-5)
    memory = ort.load(setting[1] / "encoder.onnx", 1).run({name: whole[f"input_{name}"] for name in INPUTS})
    for name, array in memory.items():
        np.testing.assert_allclose(decoder[f"input_{name}"], array, atol=1e-5)


def test_the_device_writes_what_the_original_writes(setting: tuple[Any, Path]) -> None:
    original, bundle = setting
    texts = sentences(4, seed=1)
    given = [str(one["text"]) for one in asked(bundle, *texts, "--beams", "1")]
    assert given == [greedy(original, text) for text in texts]
