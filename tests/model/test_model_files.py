"""Saving and loading: exact, the same bytes each time, and one line for whatever is wrong with a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import block_spec, images, model_of

from compress.model import Transformer, load, save
from compress.model.attention import ValuesSpec
from compress.model.ffns.affine import AffineSpec, ConstantSpec, LowRankAffineSpec
from compress.model.norms import NormSpec
from compress.model.scores.merged import MergedScoresSpec
from compress.model.scores.symmetric import SymmetricScoresSpec
from compress.model.values.diagonal_low_rank import DiagonalLowRankSpec
from compress.model.values.gated_mean import GatedMeanSpec
from targets.errors import InputError

EVERY_KIND = (
    block_spec(rope=True, head_dim=4, kv_heads=1),
    block_spec(scores=MergedScoresSpec(num_heads=2), values=GatedMeanSpec(projection=True), ffn=AffineSpec()),
    block_spec(scores=SymmetricScoresSpec(num_heads=2, head_dim=3), ffn=LowRankAffineSpec(rank=2), residual="post"),
    block_spec(values=DiagonalLowRankSpec(rank=2), ffn=ConstantSpec(), residual="parallel", loops=2),
    block_spec(values=GatedMeanSpec(projection=False), norm=NormSpec(kind="rms"), causal=True, keep_tokens=1),
    block_spec(
        values=ValuesSpec.parse(
            {
                "kind": "blended",
                "old": {"kind": "diagonal-low-rank", "rank": 1},
                "new": {"kind": "gated-mean", "projection": False},
            }
        ),
        norm=NormSpec(affine=False),
    ),
)


@pytest.fixture
def model() -> Transformer:
    return model_of(*EVERY_KIND)


@pytest.fixture
def folder(model: Transformer, tmp_path: Path) -> Path:
    save(model, tmp_path / "saved")
    return tmp_path / "saved"


def refusal(folder: Path) -> str:
    """The line that loading the folder ends with."""
    with pytest.raises(InputError) as caught:
        load(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def change_structure(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    structure = json.loads((folder / "structure.json").read_text())
    change(structure)
    (folder / "structure.json").write_text(json.dumps(structure))


def test_a_loaded_model_is_the_saved_one_to_the_last_bit(model: Transformer, folder: Path) -> None:
    loaded = load(folder)
    assert loaded.structure == model.structure
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    inputs = images(model)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model(inputs))


def test_the_same_model_is_saved_as_the_same_bytes(model: Transformer, folder: Path, tmp_path: Path) -> None:
    for again, other in (("again", model), ("from loaded", load(folder)), ("from copy", model.copy())):
        save(other, tmp_path / again)
        for file in ("structure.json", "model.safetensors"):
            assert (tmp_path / again / file).read_bytes() == (folder / file).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "structure.json"]


def test_a_loaded_model_can_be_trained(folder: Path) -> None:
    model = load(folder)
    model(images(model)).square().sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_folder_without_a_structure_is_no_model(tmp_path: Path) -> None:
    assert "it has no structure.json" in refusal(tmp_path)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_weights_cut_short_are_refused(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "damaged or truncated" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_structure_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "structure.json").write_bytes(content)
    assert "is not valid JSON" in refusal(folder)


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    """A change that puts a value at a place of the structure."""

    def change(structure: Any) -> None:
        for part in path[:-1]:
            structure = structure[part]
        structure[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("blocks", 0, "mixer", "kind", value="softmax-atention"), "did you mean 'softmax-attention'?"),
        (put("blocks", 0, "mixer", "scores", "kind", value="projekted"), "did you mean 'projected'?"),
        (put("blocks", 0, "ffn", "kind", value="lowrank-affine"), "did you mean 'low-rank-affine'?"),
        (put("head", "kind", value="clasifier"), "did you mean 'classifier'?"),
        (put("blocks", 0, "ffn", value={}), "blocks.0.ffn: expected a table with a `kind`"),
        (put("blocks", 0, "residuals", value="pre"), "unknown key 'residuals'; did you mean 'residual'?"),
        (put("blocks", 1, "mixer", "scores", "num_head", value=2), "did you mean 'num_heads'?"),
        (put("hidden", value=2), "unknown key 'hidden'; did you mean 'hidden_size'?"),
        (
            put("blocks", 0, "residual", value="middle"),
            "residual: Input should be 'pre', 'post' or 'parallel'",
        ),
        (put("blocks", 0, "mixer", "scores", "num_kv_heads", value=0), "should be greater than 0 (given: 0)"),
        (put("blocks", 0, "mixer", "scores", "num_kv_heads", value=3), "is not a multiple of num_kv_heads 3"),
        (put("hidden_size", value="wide"), "hidden_size: expected a number (given: 'wide')"),
        (put("task", value=7), "task: Input should be a valid string"),
        (put("schema_version", value=2), "schema version 2, but this edgepress reads 1; install a newer edgepress"),
        (put("schema_version", value="one"), "schema_version: Input should be 1"),
        (lambda structure: structure.pop("embed"), "embed: Field required"),
        (lambda structure: structure["schedule"].pop(), "does not run each loop of each block once"),
    ],
)
def test_a_structure_that_is_not_understood_ends_in_one_line(
    folder: Path, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    change_structure(folder, change)
    assert line in refusal(folder)


def test_a_newer_schema_is_recognized_before_its_new_keys_are(folder: Path) -> None:
    change_structure(folder, lambda structure: structure.update(schema_version=7, experts=4))
    assert "schema version 7" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: w.pop("final_norm.weight.0"), "lacks 'final_norm.weight.0' (1 tensors missing, 0 unknown)"),
        (lambda w: w.update(extra=torch.ones(1)), "has the unknown 'extra' (0 tensors missing, 1 unknown)"),
        (
            lambda w: w.update({"embed.prefix": torch.ones(1, 2, 12)}),
            "has shape (1, 2, 12), not (1, 1, 12)",
        ),
        (lambda w: w["embed.prefix"].fill_(torch.nan), "embed.prefix holds NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_the_structure_are_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], line: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    assert line in refusal(folder)
