"""Which task a checkpoint is for, by its config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress import tasks
from targets.errors import InputError


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"model_type": "vit-mnist", "image_size": 28}, "image-classification"),
        ({"architectures": ["DeiTForImageClassificationWithTeacher"], "image_size": 224}, "image-classification"),
        ({"architectures": ["BertForSequenceClassification"]}, "text-classification"),
        ({"architectures": ["BertForTokenClassification"]}, "token-classification"),
        (
            {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
            "multi-label-classification",
        ),
        (
            {
                "architectures": ["BertForSequenceClassification"],
                "problem_type": "multi_label_classification",
                "id2label": {"0": "LABEL_0"},
            },
            "multi-label-classification",
        ),
        ({"architectures": ["BertModel"]}, "embedding"),
        ({"architectures": ["ViTModel"], "image_size": 224}, "image-embedding"),
        (
            {"architectures": ["ViTForImageClassification"], "image_size": 224, "id2label": {"0": "LABEL_0"}},
            "image-regression",
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, "causal-lm"),
    ],
)
def test_the_class_tells_the_task_and_images_alone_need_none(tmp_path: Path, config: object, task: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert tasks.of_folder(tmp_path).name == task


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "bert", "vocab_size": 99}, "what this 'bert' model is for is not known without architectures"),
        (
            {"architectures": ["ViTForMagic"], "image_size": 224},
            "of images only .*ForImageClassification, .* are read",
        ),
        ({"architectures": ["BertForNextSentencePrediction"]}, "is for no task here"),
    ],
)
def test_a_task_that_is_not_known_is_one_line(tmp_path: Path, config: object, wanted: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"^{tmp_path}/config.json: [^\n]*{wanted}"):
        tasks.of_folder(tmp_path)


@pytest.mark.parametrize("name", ["SegformerForSemanticSegmentation", "WhisperForConditionalGeneration"])
def test_a_class_of_a_family_that_is_not_read_is_refused_by_its_family(tmp_path: Path, name: str) -> None:
    family = name.partition("For")[0].lower()
    config = {"model_type": family, "architectures": [name], "num_mel_bins": 80}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"unknown model_type '{family}'"):
        tasks.of_folder(tmp_path)


def test_a_config_that_no_parser_gets_through_is_left_to_the_reader_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert tasks.of_folder(tmp_path).name == "image-classification"
