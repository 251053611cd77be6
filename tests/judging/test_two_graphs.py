"""An encoder and a decoder in files of their own, as Optimum writes them, are one side of a comparison."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.translators import PAD, VOCABULARY, saved_translator
from torch import Tensor, nn

from compress.judging.sides import open_side
from compress.judging.two_graphs import DECODER, ENCODER, pair_side
from targets.errors import InputError

NAMES = ("input_ids", "attention_mask")


class Decoder(nn.Module):
    """Whole targets to logits, in the order of inputs that Optimum's files have."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.original = original

    def forward(self, mask_BN: Tensor, ids_BM: Tensor, hidden_BND: Tensor) -> Tensor:
        given = {"encoder_outputs": (hidden_BND,), "attention_mask": mask_BN, "decoder_input_ids": ids_BM}
        logits: Tensor = self.original(**given, use_cache=False).logits
        return logits


class Encoder(nn.Module):
    """A source to its hidden states."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.encoder = original.get_encoder()

    def forward(self, ids_BN: Tensor, mask_BN: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(ids_BN, attention_mask=mask_BN).last_hidden_state
        return hidden


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The checkpoint's folder, and the model."""
    folder = tmp_path_factory.mktemp("translator")
    return folder, saved_translator(folder)


@pytest.fixture(scope="module")
def exported(original: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Optimum leaves in a folder, its files for single steps aside."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(original[0] / name, folder)
    ids, mask = torch.tensor([[3, 4, 5, 0], [6, 0, PAD, PAD]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    hidden = Encoder(original[1])(ids, mask)
    batch, source, target = (torch.export.Dim.DYNAMIC for _ in range(3))
    for file, module, inputs, names, output in [
        (ENCODER, Encoder(original[1]), (ids, mask), NAMES, "last_hidden_state"),
        (
            DECODER,
            Decoder(original[1]),
            (mask, ids[:, :3], hidden),
            ("encoder_attention_mask", "input_ids", "encoder_hidden_states"),
            "logits",
        ),
    ]:
        lengths = {"input_ids": source if file == ENCODER else target}
        torch.onnx.export(
            module.eval(),
            inputs,
            folder / file,
            input_names=names,
            output_names=[output],
            dynamic_shapes=[{0: batch, 1: lengths.get(name, source)} for name in names],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return folder


def test_both_files_together_give_the_models_logits(original: tuple[Path, Any], exported: Path) -> None:
    side = open_side(str(exported))
    assert side.task is not None and side.task.name == "text-to-text" and side.files == exported
    assert side.bytes == sum((exported / file).stat().st_size for file in (ENCODER, DECODER))
    inputs = {
        "input_ids": np.array([[7, 8, 9, 10, 0], [6, 5, 0, PAD, PAD], [4, 0, PAD, PAD, PAD]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]),
        "decoder_input_ids": np.array([[PAD, 11], [PAD, 12], [PAD, 13]]),
    }
    found = side.runner()(inputs)["logits"]
    wanted = original[1](**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    assert found.shape == (3, 2, VOCABULARY)
    np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-4)


def test_a_folder_that_also_has_weights_is_the_checkpoint(
    original: tuple[Path, Any], exported: Path, tmp_path: Path
) -> None:
    for folder in (exported, original[0]):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert open_side(str(tmp_path)).kind != open_side(str(exported)).kind


def test_two_files_that_do_not_fit_together_are_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    shutil.copy(exported / ENCODER, tmp_path / DECODER)
    with pytest.raises(InputError, match=f"{DECODER} takes attention_mask, so it is not a pair as Optimum exports it"):
        pair_side("M", tmp_path)
    shutil.copy(exported / DECODER, tmp_path)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])],
        "other",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "length", 16])],
        [numpy_helper.from_array(np.zeros((VOCABULARY, 16), np.float32), "table")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, tmp_path / ENCODER)
    with pytest.raises(InputError, match=f"M: {ENCODER} gives no last_hidden_state"):
        pair_side("M", tmp_path)
