"""A program that knows docs/reference/contract.md alone gives the predictions of the device side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.answers import Wanted, answerer_of
from runtime.session import open_bundle

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "contract.md").read_text(encoding="utf-8")
SHORTEST = {"mode": "shortest_edge", "size": 10, "resample": "bicubic"}
CASES = [{}, {"resize": SHORTEST, "center_crop": [8, 8]}, {"mean": [0.1, 0.2, 0.3], "std": [1.0, 0.5, 0.2]}]


def by_the_page(folder: Path, picture: Path) -> np.ndarray:
    """Probabilities, by the steps of the page, in Pillow, numpy and ONNX Runtime."""
    import onnxruntime

    manifest = json.loads((folder / "manifest.json").read_text())
    steps = manifest["preprocessing"]
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    kind = getattr(Image.Resampling, steps["resize"]["resample"].upper())
    size = steps["resize"]["size"]
    if steps["resize"]["mode"] == "exact":
        image = image.resize((size[1], size[0]), kind)
    else:
        edges = [int(size * one / min(image.size)) for one in image.size]
        image = image.resize((edges[0], edges[1]), kind)
    if steps["center_crop"] is not None:
        height, width = steps["center_crop"]
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    x_HWC = (np.asarray(image) * steps["rescale"] - np.array(steps["mean"])) / np.array(steps["std"])
    x_BCHW = x_HWC.transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(folder / manifest["models"][0]["path"])
    [logits_BK] = session.run([manifest["outputs"][0]["name"]], {manifest["inputs"][0]["name"]: x_BCHW})
    powers_K = np.exp(logits_BK[0] - logits_BK[0].max())
    return powers_K / powers_K.sum()


@pytest.mark.parametrize("change", CASES, ids=["exact", "shortest edge, cropped", "other statistics"])
def test_images_by_the_page_give_the_same_probabilities(maker: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    from support.runtime_toys import PREPROCESSING

    folder = maker.write(preprocessing={**PREPROCESSING, **change})
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8)).save(picture)
    session = open_bundle(folder)
    [answer] = answerer_of(session.bundle).answer(session, [str(picture)], Wanted(top=5))
    probabilities = by_the_page(folder, picture)
    labels = json.loads((folder / "manifest.json").read_text())["labels"]
    assert isinstance(answer, dict)
    for one in answer["top"]:
        assert one["probability"] == pytest.approx(probabilities[labels.index(one["label"])], abs=1e-4)


def test_the_page_names_keys_that_a_bundle_has(maker: Any) -> None:
    manifest = json.loads((maker.write() / "manifest.json").read_text())
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE[: PAGE.index("## Images")], re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named - {"graphs"} <= manifest.keys()
    assert [key for key in manifest["preprocessing"] if not re.search(rf"\b{key}\b", PAGE)] == []
