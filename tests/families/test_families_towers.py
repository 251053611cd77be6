"""Two towers compute what the original library computes, and the texts of known classes may become vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.checkpoints import pixels
from support.rewriting import rewritten
from support.towers import IMAGES, TEXTS, towers_folder
from torch import Tensor

from compress import tasks
from compress.model import Transformer
from compress.rewrites import Calibration
from compress.tasks import read_checkpoint
from targets.errors import InputError

TOLERANCE = 1e-4


def read(folder: Path) -> Transformer:
    return read_checkpoint(folder, tasks.of_folder(folder).preprocessing(folder, print))


def inputs(tokens: int = 7) -> dict[str, Tensor]:
    ids_TN = torch.randint(4, TEXTS["vocab_size"], (4, tokens), generator=torch.Generator().manual_seed(0))
    ids_TN[:, -2:] = 2
    return {
        "input_ids": ids_TN,
        "attention_mask": torch.ones_like(ids_TN),
        "pixel_values": pixels(3, 8, 8),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("CLIP", {}), ("CLIP", {"eos_token_id": 5}), ("Siglip", {"hidden_size": 12, "projection_size": 12})],
)
@torch.no_grad()
def test_images_are_held_against_texts_as_the_original_does(tmp_path: Path, name: str, text: dict[str, Any]) -> None:
    original = towers_folder(tmp_path, name, **text)
    given = inputs()
    given["input_ids"][:, 3] = 5
    answer, mine = original(**given), read(tmp_path).outputs(given)
    assert list(mine) == ["logits_per_image", "text_embeds", "image_embeds"]
    for output, tensor in mine.items():
        torch.testing.assert_close(tensor, answer[output], atol=TOLERANCE, rtol=0)


def test_a_config_may_leave_out_what_the_original_library_has_by_default(tmp_path: Path) -> None:
    original = towers_folder(tmp_path, "CLIP")
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("hidden_act", "layer_norm_eps", "eos_token_id", "num_channels"):
        for tower in ("text_config", "vision_config"):
            config[tower].pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = {**inputs(), "input_ids": torch.full((2, 4), 9), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    with torch.no_grad():
        wanted = original.vision_model(given["pixel_values"]).pooler_output
        mine = read(tmp_path).outputs(given)["image_embeds"]
        projected = torch.nn.functional.normalize(original.visual_projection(wanted), dim=-1)
    torch.testing.assert_close(mine, projected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_class_vectors_leave_the_text_tower_behind_and_keep_the_scores(tmp_path: Path) -> None:
    towers_folder(tmp_path, "CLIP")
    model, given = read(tmp_path), inputs()
    notes: list[str] = []
    frozen = rewritten(model, "class-vectors", Calibration(model, lambda: iter([given]), notes.append))
    torch.testing.assert_close(frozen({"pixel_values": given["pixel_values"]}), model(given), atol=1e-5, rtol=0)
    assert frozen.num_parameters() < 0.7 * model.num_parameters()
    assert "the texts of 4 classes are read once" in notes[0]
    with pytest.raises(InputError, match="has no text tower"):
        rewritten(frozen, "class-vectors", Calibration(frozen, lambda: iter([given]), print))


def test_two_towers_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    towers_folder(tmp_path, "CLIP")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json, which the names of classes need"):
        read(tmp_path)


@torch.no_grad()
def test_the_classifier_of_clip_has_no_text_tower(tmp_path: Path) -> None:
    towers_folder(tmp_path, "CLIP")
    config = transformers.CLIPConfig(vision_config=IMAGES, text_config=TEXTS, num_labels=5)
    original = transformers.CLIPForImageClassification(config).eval()
    for one in original.parameters():
        one.add_(0.2 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())))
    original.save_pretrained(tmp_path)
    model = read(tmp_path)
    assert model.structure.task == "image-classification" and len(model.structure.labels) == 5
    wanted_BC = original(pixels(3, 8, 8)).logits
    torch.testing.assert_close(model({"pixel_values": pixels(3, 8, 8)}), wanted_BC, atol=TOLERANCE, rtol=0)
