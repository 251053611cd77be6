"""Token ids are those of AutoTokenizer for the folder, whatever its options say, or a refusal names the option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from compress.data import tokenizer as module
from compress.data.tokenizer import CONFIG, tokenizer_of, truncation_side
from runtime.texts.text import TOKENIZER, parse_preprocessing
from runtime.texts.text import Tokenizer as OnDevice
from targets.errors import EnvironmentLacks, InputError

TEXTS = [
    "Hello World",
    "hello world",
    "HÉLLO wörld",
    "  two  spaces ",
    "漢字 a",
    "<x> hello <x>b",
    "[SEP] a [MASK]",
    "a\nb",
    "hello" * 9,
]
LETTERS = (
    [chr(97 + place) for place in range(26)] + [chr(65 + place) for place in range(26)] + list("0123456789é漢字ö.,")
)


def wordpiece(**normalizer: Any) -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*special, "hello", "world", "Hello", *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    made = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**normalizer)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(special)
    return made


def bytes_pairs(prefix: bool = False) -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys([*special, *alphabet, "he", "ll", "hell", "hello", "Ġhe", "Ġhell", "Ġhello"])
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "he"), ("Ġhe", "ll"), ("Ġhell", "o")]
    made = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix)
    made.add_special_tokens(special)
    return made


MADE = {"bert": wordpiece, "roberta": bytes_pairs, "gpt2": bytes_pairs, "plain": bytes_pairs}
CLASS = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "plain": "PreTrainedTokenizerFast",
}


def folder_of(place: Path, kind: str, options: dict[str, Any], made: Tokenizer | None = None) -> Path:
    place.mkdir()
    (made or MADE[kind]()).save(str(place / TOKENIZER))
    (place / "config.json").write_text(json.dumps({"model_type": "roberta" if kind == "plain" else kind}))
    (place / CONFIG).write_text(json.dumps({"tokenizer_class": CLASS[kind], **options}))
    return place


def ids_of(folder: Path) -> list[list[int]]:
    own = tokenizer_of(folder)
    assert own is not None
    made = Tokenizer.from_file(str(own))
    made.no_truncation()
    made.no_padding()
    return [made.encode(text).ids for text in TEXTS]


def wanted_of(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return [tokenizer(text)["input_ids"] for text in TEXTS]


TOKEN = {
    "content": "<x>",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": False,
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"strip_accents": True},
    {"strip_accents": False, "do_lower_case": True},
    {"tokenize_chinese_chars": False},
    {"do_basic_tokenize": False},
    {"never_split": ["hello"]},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_eos_token": True, "eos_token": "</s>"},
    {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
    {"added_tokens_decoder": {"60": {**TOKEN, "lstrip": True}}},
    {"additional_special_tokens": ["hello"]},
    {"extra_special_tokens": {"x": "<x>"}},
    {"unk_token": "a"},
    {"cls_token": "[SEP]", "sep_token": "[CLS]"},
    {"trim_offsets": False},
    {"legacy": False},
    {"model_max_length": 5, "padding_side": "left", "truncation_side": "left"},
]


@pytest.mark.parametrize("kind", list(MADE))
@pytest.mark.parametrize("options", OPTIONS, ids=[",".join(options) or "none" for options in OPTIONS])
def test_ids_are_those_of_auto_tokenizer_or_a_refusal_names_the_option(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path / "model", kind, options)
    try:
        wanted = wanted_of(folder)
    except (AttributeError, OSError, TypeError, ValueError):  # what transformers cannot open itself is refused
        with pytest.raises(InputError, match="cannot be opened as transformers does"):
            tokenizer_of(folder)
        return
    assert ids_of(folder) == wanted


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"])
def test_an_option_goes_before_the_file(tmp_path: Path, kind: str, lowercase: bool) -> None:
    options = {"tokenizer_class": kind, "do_lower_case": not lowercase}
    folder = folder_of(tmp_path / "model", "bert", options, wordpiece(lowercase=lowercase))
    assert ids_of(folder) == wanted_of(folder) != [wordpiece(lowercase=lowercase).encode(text).ids for text in TEXTS]


def test_an_option_that_no_file_can_hold_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "bert", {"split_special_tokens": True, "do_lower_case": True})
    with pytest.raises(InputError, match="can do what split_special_tokens asks for"):
        tokenizer_of(folder)


def test_a_file_that_surely_agrees_is_taken_without_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_settled", lambda *_: pytest.fail("transformers was asked"))
    same = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "cls_token": "[CLS]"}
    assert tokenizer_of(folder_of(tmp_path / "a", "bert", same)) == tmp_path / "a" / TOKENIZER
    plain = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 9, "additional_special_tokens": []}
    assert tokenizer_of(folder_of(tmp_path / "b", "plain", plain)) == tmp_path / "b" / TOKENIZER


def test_without_transformers_the_doubtful_options_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        EnvironmentLacks, match=r"sets do_lower_case, tokenizer_class, which may .* pip install transformers"
    ):
        tokenizer_of(folder_of(tmp_path / "a", "bert", {"do_lower_case": False}))


def test_a_folder_with_a_vocabulary_alone_is_converted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", "bert", {"do_lower_case": True})
    vocabulary = Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (folder / TOKENIZER).unlink()
    assert ids_of(folder) == wanted_of(folder)
    (folder / "vocab.txt").unlink()
    assert tokenizer_of(folder) is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_at_the_side_that_the_options_name(tmp_path: Path, side: str) -> None:
    from transformers import AutoTokenizer

    folder = folder_of(tmp_path / "a", "bert", {"truncation_side": side})
    assert truncation_side(folder) == side
    section = {"kind": "text", "vocab_size": 200, "max_length": 5, "truncation_side": side}
    text = "hello a b c d e world"
    found = OnDevice(folder / TOKENIZER, parse_preprocessing(section)).encode([text])
    assert found.ids == [AutoTokenizer.from_pretrained(str(folder))(text, truncation=True, max_length=5)["input_ids"]]
    assert found.bytes == [len("hello a b" if side == "right" else "d e world")]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"tokenizer_class": 3}', '{"added_tokens_decoder": 3}', '{"truncation_side": 3}']
)
def test_damaged_options_are_one_line(tmp_path: Path, content: str) -> None:
    folder = folder_of(tmp_path / "a", "bert", {})
    (folder / CONFIG).write_text(content)
    with pytest.raises(InputError) as caught:
        truncation_side(folder)
        tokenizer_of(folder)
    assert "\n" not in str(caught.value)
