"""A trained language model from its checkpoint to the text that the device writes, with its cache handed on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import ROOT, in_haste

from compress import run, zoo
from compress.data import load_texts
from compress.judging.sides import open_side
from compress.model import Transformer, load, save
from compress.rewrites.surgery import rebuilt
from compress.tasks import get, read_checkpoint
from export import graph
from runtime.bundles.seal import SEAL, seal_of
from runtime.streams.chunking import ALLOWED

STORIES = zoo.locate("zoo:stories260k")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the five blocks of zoo:stories260k: an export takes a third of the time."""
    folder = tmp_path_factory.mktemp("model")
    whole = read_checkpoint(STORIES, get("causal-lm").preprocessing(STORIES, print))
    kept, structure = (0, 1), whole.structure
    blocks, schedule = tuple(structure.blocks[index] for index in kept), structure.schedule[: len(kept)]
    save(rebuilt(whole, structure.replace(blocks=blocks, schedule=schedule), dict(enumerate(kept))), folder)
    shutil.copyfile(STORIES / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the default recipe makes of it, on beginnings of stories; its gate has to pass."""
    root = tmp_path_factory.mktemp("decoder")
    starts = [" ".join(row.texts[0].split()[:20]) for row in load_texts("zoo:stories").rows[:240]]
    (root / "short.txt").write_text("\n".join(starts))
    with in_haste(root / "cache"):
        settings = ["calibrate.samples=16", "calibrate.held_out=16", "gate.max_drop=5"]
        code = run.main("cpu", model=str(model), data=str(root / "short.txt"), out=root / "out", settings=settings)
    assert code == 0
    return root / "out" / "bundle"


def ask(bundle: Path, *arguments: str, module: str = "run") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"runtime.{module}", str(bundle), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_default_recipe_keeps_perplexity_within_its_gate(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    metrics = manifest["drift"]["model.onnx"]["metrics"]
    low, high = metrics["perplexity"]["interval"]
    assert manifest["verdict"] == "pass" and low <= metrics["perplexity"]["drop"] <= high
    assert high < 0.05 * metrics["perplexity"]["reference"]
    assert {"bits_per_byte", "token_agreement", "token_kl"} <= metrics.keys()
    assert [state["past"] for state in manifest["state"]] == [
        f"past_key_values.{block}.{part}" for block in range(2) for part in ("key", "value")
    ]
    kinds = [node.op_type for node in graph.load(bundle / "model.onnx").graph.node]
    assert "MatMulInteger" in kinds
    report = json.loads((bundle.parent / "report" / "report.json").read_text())
    exported = next(row for row in report["stages"] if row["name"] == "export")
    assert "differs from torch by up to" in exported["note"]


def test_the_device_writes_what_the_original_finds_likely(bundle: Path, model: Path) -> None:
    text = ask(bundle, "Once upon a time", "--tokens", "12")
    assert text.returncode == 0 and text.stdout.startswith("Once upon a time"), text.stderr
    whole = json.loads(ask(bundle, "Once upon a time", "--tokens", "12", "--json").stdout)["results"][0]
    assert whole["input"] + whole["text"] == text.stdout.rstrip("\n")
    prompt = [1, 403, 407, 261, 378]
    ids = [int(token) for token in ask(bundle, "--ids", " ".join(map(str, prompt)), "--tokens", "12").stdout.split()]
    assert ids[: len(prompt)] == prompt and len(ids) == len(prompt) + 12
    assert ranks(load(model), ids, len(prompt)) <= {0, 1}
    assert ask(bundle, module="selftest").returncode == 0


def test_equal_prompts_are_drawn_with_one_seed_after_the_other(bundle: Path) -> None:
    def drawn(*prompts: str, seed: int) -> list[str]:
        done = ask(bundle, *prompts, "--tokens", "12", "--temperature", "1", "--seed", str(seed), "--json")
        return [result["text"] for result in json.loads(done.stdout)["results"]]

    both = drawn("Once", "Once", seed=4)
    assert both == drawn("Once", seed=4) + drawn("Once", seed=5) and both[0] != both[1]
    streamed = ask(bundle, "Once", "Once", "--tokens", "12", "--temperature", "1", "--seed", "4").stdout
    assert streamed == "".join(f"Once{text}\n" for text in both)


def ranks(model: Transformer, ids: list[int], start: int) -> set[int]:
    """At what place of the original's list, likeliest first, each of the tokens from `start` on stands."""
    with torch.no_grad():
        logits_NV = model({"input_ids": torch.tensor([ids])})[0]
    order_NV = logits_NV.argsort(dim=-1, descending=True)
    return {int((order_NV[place - 1] == ids[place]).nonzero()) for place in range(start, len(ids))}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("",), "has no tokens"),
        (("Once", "--top", "2"), "--top says nothing to"),
        (("Once", "--top-k", "3"), "--top-k draws tokens only with --temperature above 0"),
        (("Once", "--temperature", "0", "--seed", "1"), "--seed draws tokens only with --temperature above 0"),
        (("--ids", "1 512"), "token ids reach from 1 to 512; allowed: 0 to 511"),
        (("--ids", " ".join(["5"] * 512)), "the prompt fills all 512 tokens that the model takes; shorten it"),
        (("Once upon " * 300,), "the prompt fills all 512 tokens that the model takes; shorten it"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_one_line(bundle: Path, arguments: tuple[str, ...], wanted: str) -> None:
    done = ask(bundle, *arguments)
    assert done.returncode == 2 and wanted in done.stderr.splitlines()[-1] and not done.stdout
    assert "Traceback" not in done.stderr and "was cut" not in done.stderr


def test_the_gate_asks_whole_texts_in_chunks_of_the_profile(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["target"]["profile"]["chunk"] = [1, 1, 4]
    path.write_text(json.dumps(manifest))
    (path.parent / SEAL).write_bytes(seal_of(path.read_bytes()))
    ids_BN = np.array([[1, 403, 407, 261, 378, 403, 407, 261, 378], [1, 300, 310, 320, 330, 340, 350, 0, 0]])
    inputs = {"input_ids": ids_BN, "attention_mask": (ids_BN > 0).astype(np.int64)}
    whole, parts = (open_side(str(one)).runner()(inputs)["logits"] for one in (bundle, path.parent))
    real_BN = ids_BN > 0
    error = np.linalg.norm(parts[real_BN] - whole[real_BN]) / np.linalg.norm(whole[real_BN])
    assert 0 < error < ALLOWED["int8"]
