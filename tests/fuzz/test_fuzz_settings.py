"""Damaged and odd settings: recipes, gates, the JSON of checkpoints, and answers under a gate."""

from __future__ import annotations

import io
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import saved
from support.mutation import ODD, draws, kept, mutated, write_odd
from support.text_checkpoints import saved_text

from compress import recipe, tasks
from compress.data import specs
from compress.data.packed import PackedJpegs
from compress.data.processor import preprocessing_from_hf
from compress.data.text_files import decoded
from compress.data.tokenizer import tokenizer_of, truncation_side
from compress.judging import slices
from compress.judging.sides import open_side
from compress.tasks import read_checkpoint
from compress.verification import baseline
from compress.verification import gate as gates
from compress.verification.drift import compare
from compress.verification.files import load
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status
from export.sign import sign
from runtime.bundles.manifest import load_manifest
from runtime.bundles.seal import load_public_key
from runtime.costs import Costs
from targets.errors import InputError

RECIPES = {path.stem: path.read_bytes() for path in sorted(recipe.FOLDER.rglob("*.toml"))}
GATE = """confidence = 0.95
min_samples = 100
resamples = 200
seed = 3

[[check]]
metric = "top1"
max_drop = 1.0

[[check]]
metric = "agreement"
min_value = 90.0
"""


def odd_toml(text: str, draw: random.Random) -> bytes:
    """A TOML file in which some values are odd ones, or some bytes others."""
    if draw.randrange(3) == 0:
        return mutated(text.encode(), draw, list(RECIPES.values()))
    values = list(re.finditer(r"= *([^\n#]+)", text))
    for match in draw.sample(values, min(len(values), draw.randint(1, 2))):
        odd = json.dumps(draw.choice(ODD)).replace("null", '""')
        text = text.replace(match[0], f"= {odd}", 1)
    return text.encode(errors="surrogatepass")


def test_recipes(tmp_path: Path) -> None:
    for count, draw in enumerate(draws("recipe")):
        name = draw.choice(sorted(RECIPES))
        (tmp_path / "r.toml").write_bytes(odd_toml(RECIPES[name].decode(), draw))
        kept(lambda: recipe.load(str(tmp_path / "r.toml")), f"recipe {name} {count}")


def test_settings_of_the_command_line() -> None:
    for count, draw in enumerate(draws("--set")):
        table = draw.choice(["heal", "gate", "data", "rewrite.fold-norm", "x", ""])
        key, value = draw.choice(["steps", "max_drop", "", "a.b"]), json.dumps(draw.choice(ODD))
        setting = f"{table}.{key}={value}"
        kept(lambda setting=setting: recipe.load("quick", [setting]), f"--set {count}: {setting[:80]}")


def test_gates(tmp_path: Path) -> None:
    for count, draw in enumerate(draws("gate")):
        (tmp_path / "gate.toml").write_bytes(odd_toml(GATE, draw))
        found = kept(lambda: gates.load(tmp_path / "gate.toml"), f"gate {count}")
        if found is not None:
            assert found.check and 0.5 < found.confidence < 1 and found.min_samples >= 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    saved(folder, "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_checkpoints_of_images_with_odd_json(checkpoint: Path, name: str) -> None:
    good = json.loads((checkpoint / name).read_text()) if (checkpoint / name).is_file() else None
    nested = {"image_processor": json.loads((checkpoint / "preprocessor_config.json").read_text())}
    try:
        for count, draw in enumerate(draws(name)):
            write_odd(checkpoint / name, good or nested, draw)

            def use() -> None:
                tasks.of_folder(checkpoint)
                read_checkpoint(checkpoint, preprocessing_from_hf(checkpoint))

            kept(use, f"{name} {count}")
    finally:
        (checkpoint / name).unlink()
        if good is not None:
            (checkpoint / name).write_text(json.dumps(good))


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", "ForSequenceClassification"), ("llama", "ForCausalLM"), ("gpt2", "Model")]
)
def test_checkpoints_of_texts_with_odd_json(tmp_path: Path, family: str, kind: str) -> None:
    saved_text(tmp_path, family, kind)
    good = json.loads((tmp_path / "config.json").read_text())
    for count, draw in enumerate(draws(f"{family} config")):
        write_odd(tmp_path / "config.json", good, draw)

        def use() -> None:
            task = tasks.of_folder(tmp_path)
            read_checkpoint(tmp_path, task.preprocessing(tmp_path, lambda text: None))

        kept(use, f"{family} {count}")


def test_weights_that_are_damaged(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    good, section = path.read_bytes(), preprocessing_from_hf(checkpoint)
    try:
        for count, draw in enumerate(draws("safetensors")):
            at = draw.choice([8, 200, len(good)])  # the header, mostly
            path.write_bytes(mutated(good[:at], draw, [good]) + good[at:])
            model = kept(lambda: read_checkpoint(checkpoint, section), f"safetensors {count}")
            assert model is None or all(bool(one.isfinite().all()) for one in model.parameters())
    finally:
        path.write_bytes(good)


def test_tokenizers_with_odd_options(tmp_path: Path) -> None:
    from support import tiny_texts

    folder = tiny_texts.model_folder(tmp_path / "model", "text-classification")
    whole = json.loads((folder / "tokenizer.json").read_text())
    tokens = {"0": {"content": "x"}}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 9, "added_tokens_decoder": tokens}
    config = {"model_type": "bert", "vocab_size": 64, "max_position_embeddings": 12, "pad_token_id": 0}
    for count, draw in enumerate(draws("tokenizer")):
        for name, value in (("tokenizer.json", whole), ("tokenizer_config.json", options), ("config.json", config)):
            if draw.randrange(2):
                write_odd(folder / name, value, draw)
            else:
                (folder / name).write_text(json.dumps(value))

        def use() -> None:
            truncation_side(folder)
            tokenizer_of(folder)
            tasks.get("text-classification").preprocessing(folder, lambda text: None)

        kept(use, f"tokenizer {count}")


def answers(draw: random.Random, seed: int) -> tuple[Predictions, Predictions]:
    make = np.random.default_rng(seed)
    samples = draw.choice([1, 20, 150, 400])
    labels = make.integers(0, 4, samples)
    logits = make.normal(size=(samples, 4)).astype(np.float32)
    logits[np.arange(samples), labels] += 3
    other = logits + make.normal(0, draw.choice([0.0, 0.01, 1.0, 5.0]), logits.shape).astype(np.float32)
    return Predictions(logits, labels), Predictions(other.astype(np.float32), labels)


def test_no_damaged_or_odd_answers_pass_a_gate_unjudged(tmp_path: Path) -> None:
    """Whatever was recorded: a pass means finite answers, enough of them, to the same labels, and a drop in bounds."""
    judge = gates.parse({"resamples": 200, "check": [{"metric": "top1", "max_drop": 1.0}]})
    for count, draw in enumerate(draws("answers")):
        sides = answers(draw, count)
        read: list[Any] = []
        for name, side in zip(("reference", "candidate"), sides, strict=True):
            arrays: dict[str, Any] = {"logits": side.logits, "labels": side.labels}
            if draw.randrange(3) == 0:
                key = draw.choice(sorted(arrays))
                array = arrays[key]
                others = [array.astype(str), array[::-1], array[:-1], array * np.nan, array * 1e39]
                arrays[key] = draw.choice([*others, array.astype(complex), array.ravel(), array.astype(bool)])
            stream = io.BytesIO()
            np.savez(stream, **arrays)
            data = stream.getvalue()
            (tmp_path / f"{name}.npz").write_bytes(mutated(data, draw, [data]) if draw.randrange(4) == 0 else data)
            read.append(kept(lambda name=name: load(tmp_path / f"{name}.npz"), f"answers {count}"))
        if None in read:
            continue
        drift = kept(lambda read=read: compare(*read, judge), f"answers {count}, compared")
        if drift is None or drift.gate.status is not Status.PASS:
            continue
        right = [side.logits.argmax(axis=1) == side.labels for side in read]
        assert all(np.isfinite(side.logits).all() for side in read)
        assert np.array_equal(read[0].labels, read[1].labels) and len(read[0].labels) >= judge.min_samples
        assert right[0].mean() - right[1].mean() <= 0.01


@pytest.mark.parametrize("value", ["[" * 500 + "]" * 500, "9" * 5000, "1" * 4301 + ".0"])
def test_values_that_a_reader_chokes_on_are_one_line(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.toml").write_text(f"x = {value}\n")
    for read in (lambda: recipe.load(str(tmp_path / "a.toml")), lambda: gates.load(tmp_path / "a.toml")):
        assert kept(read, value[:20]) is None
    kept(lambda: recipe.load("quick", [f"heal.steps={value}"]), value[:20])


@pytest.mark.parametrize("name", ["a.toml", "a.npz", "a.jsonl"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    readers = {"a.toml": lambda: recipe.load(str(tmp_path / name)), "a.npz": lambda: load(tmp_path / name)}
    for read in (readers.get(name, lambda: load(tmp_path / name)), lambda: gates.load(tmp_path / name)):
        assert kept(read, name) is None


@pytest.mark.parametrize(
    "read",
    [
        lambda path: slices.read(path, ["a"]),
        baseline.load,
        decoded,
        PackedJpegs,
        Costs.read,
        load_public_key,
        lambda path: load_manifest(path.parent),
        lambda path: open_side(str(path)),
        lambda path: specs.load(str(path)),
        lambda path: sign(path.parent, path),
    ],
    ids=["slices", "baseline", "texts", "images", "costs", "key", "bundle", "model", "data", "private"],
)
def test_no_file_that_a_command_is_given_is_a_pipe_that_is_waited_for(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match=r"manifest\.json is a pipe; give a file"):
        read(tmp_path / "manifest.json")
