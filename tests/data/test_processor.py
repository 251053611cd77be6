"""The section read from a processor file prepares images as the original library's own processor does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from compress.data import preprocessing_from_hf
from runtime.images.image import prepare
from targets.errors import InputError

DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "do_convert_rgb": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
# Settings (None: the class's defaults), and the processor that transformers 5 makes of them without torchvision.
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "vit defaults": ({"image_processor_type": "ViTImageProcessor"}, ViTImageProcessorPil),
    "vit old form": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 20, "resample": 3},
        ViTImageProcessorPil,
    ),
    "vit fast, oblong": (
        {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 24, "width": 36}, "resample": 0},
        ViTImageProcessorPil,
    ),
    "vit unnormalized": ({"size": 32, "do_normalize": False}, ViTImageProcessorPil),
    "vit unscaled": ({"size": 32, "do_rescale": False, "image_mean": [120.0] * 3}, ViTImageProcessorPil),
    "deit defaults": ({"image_processor_type": "DeiTImageProcessor"}, DeiTImageProcessorPil),
    "deit crop larger than image": (
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 20, "crop_size": 25, "resample": 3},
        DeiTImageProcessorPil,
    ),
    "bit defaults": ({"image_processor_type": "BitImageProcessor"}, BitImageProcessorPil),
    "bit number": ({"image_processor_type": "BitImageProcessor", "size": 30, "crop_size": 28}, BitImageProcessorPil),
    "clip defaults": ({"image_processor_type": "CLIPImageProcessor"}, CLIPImageProcessorPil),
    "dinov2": (DINOV2, BitImageProcessorPil),
}


def folder_with(path: Path, processor: object = None, config: object = None) -> Path:
    for name, content in (("preprocessor_config.json", processor), ("config.json", config)):
        if content is not None:
            (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("case", CASES)
def test_pixels_equal_those_of_the_original_processor(case: str, tmp_path: Path) -> None:
    settings, processor = CASES[case]
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((50, 40), (33, 64), (8, 8))]
    section = preprocessing_from_hf(folder_with(tmp_path, settings, {"num_channels": 3}))
    expected = processor(**settings)(images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(prepare(images, section), expected, atol=1e-5)


def test_saved_file_of_the_original_processor_is_read(tmp_path: Path) -> None:
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    assert preprocessing_from_hf(tmp_path) == {
        "kind": "image",
        "channels": 3,
        "size": [32, 32],
        "resize": {"mode": "exact", "size": [32, 32], "resample": "bilinear"},
        "center_crop": None,
        "rescale": 1 / 255,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.5, 0.5, 0.5],
    }


def test_grey_models_get_one_channel(tmp_path: Path) -> None:
    settings = {"size": 28, "image_mean": [0.1307], "image_std": [0.3081]}
    section = preprocessing_from_hf(folder_with(tmp_path, settings))
    assert (section["channels"], section["mean"], section["std"]) == (1, [0.1307], [0.3081])
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    expected = (image / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(prepare([image], section)[0, 0], expected, atol=1e-6)


def test_without_resize_the_size_is_the_models(tmp_path: Path) -> None:
    section = preprocessing_from_hf(folder_with(tmp_path, {"do_resize": False}, {"image_size": [16, 24]}))
    assert (section["resize"], section["size"]) == ({"mode": "none"}, [16, 24])


def test_missing_file_falls_back_to_the_models_size_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = folder_with(tmp_path, None, {"image_size": 48, "num_channels": 1})
    section = preprocessing_from_hf(folder, notes.append)
    assert (section["size"], section["channels"], section["mean"]) == ([48, 48], 1, [0.5])
    assert len(notes) == 1
    assert "no preprocessor_config.json" in notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "processor is 'ConvNext'; allowed: ViT, DeiT, Bit, CLIP"),
        ({"size": {"longest_edge": 5}}, "size is {'longest_edge': 5}; allowed"),
        ({"size": {"shortest_edge": 5}}, "nothing is cropped; images of one size"),
        ({"size": "big"}, "size is 'big'; allowed"),
        ({"resample": 1}, r"resample is 1; allowed: 0 \(nearest\), 2 \(bilinear\), 3 \(bicubic\)"),
        ({"crop_pct": 0.875}, "crop_pct is 0.875, which is not supported"),
        ({"do_resize": False}, "image_size is None; allowed"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\] but the model has 3 channels"),
        ({"image_std": [0.0]}, "std has a zero"),
        ([1], "does not hold a JSON object"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(settings: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        preprocessing_from_hf(folder_with(tmp_path, settings, {"num_channels": 3}))
    assert "\n" not in str(caught.value)


def test_unreadable_json_and_missing_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither preprocessor_config\.json nor an image_size"):
        preprocessing_from_hf(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        preprocessing_from_hf(tmp_path)


def test_settings_inside_processor_config_go_first_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 4, "width": 6},
        "image_mean": [0.4, 0.3, 0.2],
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 9}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings, "processor_class": "A"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.1, 0.1]}))
    section = preprocessing_from_hf(tmp_path)
    assert section["mean"] == list(AutoImageProcessor.from_pretrained(tmp_path).image_mean) == [0.4, 0.3, 0.2]
    assert section["size"] == [4, 6]
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "A"}))
    assert preprocessing_from_hf(tmp_path)["mean"] == [0.1, 0.1, 0.1]
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    with pytest.raises(InputError, match=r"processor_config\.json: image_processor is \[1\]"):
        preprocessing_from_hf(tmp_path)


@pytest.mark.parametrize(
    ("config", "settings", "wanted"),
    [
        ({"num_channels": "3"}, {}, "num_channels is '3'; allowed: 1, 3"),
        ({"num_channels": 4}, {}, "num_channels is 4; allowed: 1, 3"),
        ({}, {"do_center_crop": True}, "crop_size is None; allowed"),
        ({}, {"resample": [3]}, r"resample is \[3\]; allowed"),
        ({}, {"size": {"height": True, "width": True}}, "size is .*; allowed"),
        ({}, {"size": 100_000}, "size is "),
        ({}, {"rescale_factor": "x"}, "rescale"),
    ],
)
def test_odd_values_are_one_line(
    tmp_path: Path, config: dict[str, object], settings: dict[str, object], wanted: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 8, **config}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "size": 8, **settings})
    )
    with pytest.raises(InputError, match=wanted) as caught:
        preprocessing_from_hf(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_channels_that_are_null_are_those_of_the_mean(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 8, "num_channels": None}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 8, "image_mean": [0.5], "image_std": [0.5]}))
    assert preprocessing_from_hf(tmp_path)["channels"] == 1
