"""Damaged and odd model folders, as a check and as a run read them: an answer, or one line that names the cause."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import saved
from support.mutation import draws, kept, mutated, write_odd
from support.text_checkpoints import saved_text
from support.tiny_texts import WORDS, labelled, write_tokenizer

from compress.judging.evaluate import evaluate
from compress.judging.options import Options
from compress.judging.sides import open_side
from targets.errors import EdgepressError

Damage = Callable[[Path], object]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts as it is saved by its users, and texts for it."""
    root = tmp_path_factory.mktemp("whole")
    saved_text(root / "model", "bert", "ForSequenceClassification", pad_token_id=0, num_labels=2)
    config = json.loads((root / "model" / "config.json").read_text()) | {"id2label": {"0": "bad", "1": "good"}}
    (root / "model" / "config.json").write_text(json.dumps(config))
    write_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS[:19]], root / "model")
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 12, "pad_token": "[PAD]"}
    (root / "model" / "tokenizer_config.json").write_text(json.dumps(options))
    labelled(root / "texts.tsv", 12)
    return root


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "model", tmp_path / "model"))


def refusal(folder: Path) -> str:
    """The line that opening the folder ends with."""
    with pytest.raises(EdgepressError) as caught:
        open_side(str(folder))
    line = str(caught.value)
    assert "\n" not in line and len(line) < 300 and str(folder) in line
    return line.replace(f"{folder}/", "").replace(str(folder), "FOLDER")


def is_a_folder(name: str) -> Damage:
    return lambda folder: ((folder / name).unlink(missing_ok=True), (folder / name).mkdir())


def is_a_link(name: str, to: str) -> Damage:
    return lambda folder: ((folder / name).unlink(missing_ok=True), (folder / name).symlink_to(to))


def is_a_pipe(name: str) -> Damage:
    return lambda folder: ((folder / name).unlink(missing_ok=True), os.mkfifo(folder / name))


def holds(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def says(name: str, **changes: Any) -> Damage:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))

    return change


def weighs(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def write(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return write


def in_shards(**index: Any) -> Damage:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        names = load_file(folder / "a.safetensors")
        content = {"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors"), **index}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))

    return write


HEADER = b'{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}'
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a link of the hub's cache to nowhere": (
        is_a_link("tokenizer_config.json", "../blobs/0a1b"),
        "tokenizer_config.json is a link to what is not there",
    ),
    "a link to itself": (is_a_link(WEIGHTS, WEIGHTS), "model.safetensors is a link to what is not there"),
    "a folder for a config": (is_a_folder("config.json"), "config.json is a folder, and no file"),
    "a folder for weights": (is_a_folder(WEIGHTS), "model.safetensors is a folder, and no file"),
    "a pipe for a config": (is_a_pipe("config.json"), "config.json is a pipe or a device"),
    "a pipe for a tokenizer": (is_a_pipe("tokenizer.json"), "tokenizer.json is a pipe or a device"),
    "a list for a config": (holds("config.json", b"[1]"), "config.json does not hold a JSON object"),
    "another coding": (holds("config.json", "{}".encode("utf-16")), "config.json is not valid JSON"),
    "no model_type": (says("config.json", model_type=None), "config.json has no model_type; put back"),
    "a list of model_types": (says("config.json", model_type=["bert"]), "the model_type ['bert'], which is not a name"),
    "a number of a class": (says("config.json", architectures=[3]), "architectures [3] is for no task here"),
    "a packed quantizer": (
        says("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "transformers needs another package",
    ),
    "a length in words": (
        says("tokenizer_config.json", model_max_length="twelve"),
        "tokenizer_config.json: model_max_length must be a number of 1 or more, not 'twelve'",
    ),
    "truth for a length": (
        says("tokenizer_config.json", model_max_length=True),
        "model_max_length must be a number of 1 or more, not 'True'",
    ),
    "less than nothing for a length": (
        holds("sentence_bert_config.json", b'{"max_seq_length": -3}'),
        "sentence_bert_config.json: max_seq_length must be a number of 1 or more, not '-3'",
    ),
    "an adapter beside a model": (
        holds("adapter_config.json", b"{}"),
        "FOLDER holds adapter_config.json beside a whole model: merge the adapter",
    ),
    "a pointer of Git LFS": (holds(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid x\n"), "is damaged or"),
    "an unknown type of numbers": (
        holds(WEIGHTS, struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)),
        "model.safetensors is damaged or truncated (Error while deserializing header",
    ),
    "a table of shards without names": (in_shards(weight_map=[1]), "index.json has no weight_map"),
    "a list of what shards are": (in_shards(metadata=[1]), "index.json: metadata is not a table"),
    "a shard outside": (in_shards(weight_map={"a": "../../b.safetensors"}), "b.safetensors is missing"),
    "an empty matrix": (
        weighs(lambda all_: all_.update({"bert.encoder.layer.0.output.dense.weight": torch.zeros(0, 0)})),
        "bert.encoder.layer.0.output.dense.weight is empty, of the shape (0, 0)",
    ),
    "complex numbers": (
        weighs(lambda all_: all_.update({name: one.to(torch.complex64) for name, one in all_.items()})),
        "holds complex numbers",
    ),
    "whole numbers": (
        weighs(lambda all_: all_.update({name: one.to(torch.int32) for name, one in all_.items()})),
        "is stored as int32, not as floating point",
    ),
    "every second tensor": (weighs(lambda all_: [all_.pop(name) for name in [*all_][::2]]), "the weights lack"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_folder_ends_in_a_line_that_names_the_cause(folder: Path, damage: str) -> None:
    change, cause = DAMAGES[damage]
    change(folder)
    assert cause in refusal(folder)


def test_images_of_another_size_than_the_models_are_answered_as_a_run_answers_them(tmp_path: Path) -> None:
    """Both resample the positions; what is of neither size is not a fault of edgepress."""
    saved(tmp_path, "vit")
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": {"height": 16, "width": 16}}}')
    side = open_side(str(tmp_path))
    pixels = torch.rand(1, 3, 16, 16)
    assert side.canonical is not None
    mine = side.canonical()({"pixel_values": pixels})
    torch.testing.assert_close(torch.from_numpy(side.call({"pixel_values": pixels.numpy()})["logits"]), mine)
    with pytest.raises(EdgepressError, match=r"ViTForImageClassification does not take what its folder prepares: ."):
        side.call({"pixel_values": torch.zeros(1, 5, 16, 16).numpy()})


def checked(folder: Path, data: Path) -> str:
    """The verdict of a comparison of the model with itself."""
    return evaluate(Options(str(folder), str(folder), str(data), max_drop=1.0)).report.verdict.value


def test_weights_that_overflow_are_judged_and_do_not_pass(whole: Path, folder: Path) -> None:
    weighs(lambda all_: all_.update({name: 1e30 * one for name, one in all_.items()}))(folder)
    assert checked(folder, whole / "texts.tsv") == "error"


def test_no_odd_folder_ends_a_check_in_a_traceback(whole: Path, folder: Path) -> None:
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS]
    for count, draw in enumerate(draws("folder")):
        for name in draw.sample(names, draw.choice([1, 1, 2])):
            data = (whole / "model" / name).read_bytes()
            if name == WEIGHTS:
                (folder / name).write_bytes(mutated(data[:400], draw, [data]) + data[400:])
            else:
                write_odd(folder / name, json.loads(data), draw)
        verdict = kept(lambda: checked(folder, whole / "texts.tsv"), f"folder {count}")
        assert verdict in (None, "error", "fail"), count  # twelve texts prove nothing
        for name in names:
            shutil.copy(whole / "model" / name, folder / name)
