"""A folder that transformers cannot open stops with the cause, never with a fault of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.judging.original import load_original
from targets.errors import EnvironmentLacks, InputError

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


def load_with(folder: Path, **options: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))
    load_original("mine", folder, "AutoModelForSequenceClassification")


def test_a_quantizer_whose_package_is_missing_is_the_environments(folder: Path) -> None:
    with pytest.raises(EnvironmentLacks, match=r"^mine: transformers needs another package to read it: .*aqlm"):
        load_with(folder, quantization_config={"quant_method": "aqlm"})


@pytest.mark.parametrize(
    "options", [{"hidden_size": "4"}, {"num_attention_heads": 0}, {"hidden_act": "odd"}, {"vocab_size": 8}]
)
def test_options_that_make_no_model_are_bad_input(folder: Path, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^mine cannot be read as AutoModelForSequenceClassification: ."):
        load_with(folder, **options)


def test_the_cause_stands_behind_the_colon_that_announces_it(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'vocab_size': .*int") as told:
        load_with(folder, vocab_size=None)
    assert not str(told.value).endswith(":")
