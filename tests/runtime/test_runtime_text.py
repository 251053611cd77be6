"""Texts to token ids on the device: as the original library does it, cut, padded, and refused where they cannot fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.answers import Wanted, answerer_of
from runtime.answers.causal_lm import Continuations
from runtime.bundles.bundle import open_files
from runtime.texts.text import TextPreprocessing, Tokenizer, pad, parse_ids, parse_preprocessing
from targets.errors import InputError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "##s"]
SPEC = TextPreprocessing("text", vocab_size=8, max_length=5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small WordPiece tokenizer, with padding and truncation of its own that must not matter."""
    from tokenizers import Tokenizer as Whole
    from tokenizers import models, normalizers, pre_tokenizers, processors

    whole = Whole(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    whole.normalizer = normalizers.Lowercase()
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    whole.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    whole.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    whole.enable_padding(length=64)
    whole.enable_truncation(4)
    whole.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_ids_are_those_of_the_tokenizer_and_cut_texts_are_counted(file: Path) -> None:
    encoded = Tokenizer(file, SPEC).encode(["The cats", "the cat sat sat", "dog"])
    assert encoded.ids == [[2, 4, 5, 7, 3], [2, 4, 5, 6, 3], [2, 1, 3]]
    assert encoded.cut == 1
    assert Tokenizer(file, SPEC).decode([2, 4, 5, 7, 3]) == "the cat ##s"


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_without_tokens_has_no_ids_and_is_no_input(file: Path, text: str) -> None:
    ids = Tokenizer(file, SPEC).encode(["cat", text]).ids
    assert ids[0] and ids[1] == []
    with pytest.raises(InputError, match="a sequence has no token ids"):
        pad(ids, SPEC)


def test_a_text_that_is_no_unicode_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"the text 'cat .udcff' is not valid UTF-8"):
        Tokenizer(file, SPEC).encode(["cat", "cat \udcff"])


@pytest.mark.parametrize("size", [7, 17, 9000])
def test_a_tokenizer_of_another_model_is_refused(file: Path, size: int) -> None:
    with pytest.raises(InputError, match=f"8 tokens with ids up to 7, but the model has {size}"):
        Tokenizer(file, TextPreprocessing("text", vocab_size=size, max_length=5))


def test_a_word_that_a_tokenizer_has_no_token_for_is_told_of_it(file: Path) -> None:
    content = json.loads(file.read_text())
    content["model"]["unk_token"] = "<gone>"
    file.write_text(json.dumps(content))
    assert Tokenizer(file, SPEC).encode(["cat"]).ids == [[2, 5, 3]]
    with pytest.raises(InputError, match=r"tokenizer.json does not serve for these texts: .* Missing \[UNK\] token"):
        Tokenizer(file, SPEC).encode(["cat", "dog"])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": {"type": "Nothing"}}', b"\xff"])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="is not a tokenizer") as caught:
        Tokenizer(tmp_path / "tokenizer.json", SPEC)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"nothing\.json is missing"):
        Tokenizer(tmp_path / "nothing.json", SPEC)


def test_a_tokenizer_that_the_manifest_does_not_list_is_not_read(file: Path, maker: Any) -> None:
    folder = maker.write(
        task="embedding",
        preprocessing={"kind": "text", "vocab_size": 8, "max_length": 5},
        inputs=[{"name": "input_ids", "dtype": "int64", "shape": ["batch", "length"]}],
    )
    shutil.copyfile(file, folder / "tokenizer.json")
    with pytest.raises(InputError, match=r"lists no tokenizer\.json.*--ids"):
        answerer_of(open_files(folder))
    assert answerer_of(open_files(folder), ids=True).expand(["1 2"]) == ["1 2"]
    maker.seal(folder)
    assert answerer_of(open_files(folder)).expand(["1 2"]) == ["1 2"]


@settings(max_examples=50, deadline=None)
@given(
    ids=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=5), min_size=1, max_size=6),
    side=st.sampled_from(["left", "right"]),
    multiple=st.integers(1, 8),
)
def test_padding_keeps_every_id_where_the_mask_says(ids: list[list[int]], side: Any, multiple: int) -> None:
    inputs = pad(ids, TextPreprocessing("text", 8, 5, pad_id=1, padding_side=side), multiple)
    length = inputs["input_ids"].shape[1]
    assert length == min(5, -(-max(map(len, ids)) // multiple) * multiple)
    for row, mask, one in zip(inputs["input_ids"], inputs["attention_mask"], ids, strict=True):
        assert row[mask == 1].tolist() == one
        assert (row[mask == 0] == 1).all()
        assert (np.diff(mask) * (1 if side == "left" else -1) >= 0).all()


def test_ids_that_the_model_has_not_are_refused() -> None:
    with pytest.raises(InputError, match="token ids reach from 3 to 8; allowed: 0 to 7"):
        pad([[3, 8]], SPEC)
    with pytest.raises(InputError, match="6 token ids, the model takes 5"):
        pad([[1] * 6], SPEC)
    assert parse_ids("101, 7592 102") == [101, 7592, 102]
    for text in ("", "1 b", "-1"):
        with pytest.raises(InputError, match="not a list of token ids"):
            parse_ids(text)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"pad_id": 8}, "pad_id is 8"), ({"max_length": 0}, "max_length 0"), ({"lenght": 3}, "nearest: 'max_length'")],
)
def test_the_section_is_read_strictly(change: dict[str, Any], wanted: str) -> None:
    section = {"kind": "text", "vocab_size": 8, "max_length": 5}
    assert parse_preprocessing(json.loads(json.dumps(section))) == SPEC
    with pytest.raises(InputError, match=wanted):
        parse_preprocessing(section | change)


def test_ids_that_a_user_gives_are_all_fed_and_what_a_tokenizer_adds_at_the_end_is_not(file: Path) -> None:
    spec = replace(SPEC, stop=(WORDS.index("[SEP]"),))
    assert Continuations(spec, None).prompt_ids("2 4 3") == [2, 4, 3]
    assert Continuations(spec, Tokenizer(file, spec)).prompt_ids("the cat") == [2, 4, 5]


def test_a_prompt_goes_before_every_text_and_added_tokens_may_lie_beyond_the_rows(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "find": 1, "red": 2, "cars": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<image>"])
    made.save(str(tmp_path / "tokenizer.json"))
    spec = TextPreprocessing(kind="text", vocab_size=4, max_length=8, prompt="find ")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", spec)
    assert tokenizer.encode(["red cars", "cars"]).ids == [[1, 2, 3], [1, 3]]
    assert tokenizer.prompted("cars ").encode(["red"]).ids == [[3, 2]]
    assert tokenizer.encode(["red"]).ids == [[1, 2]]
    with pytest.raises(InputError, match="4"):
        pad(tokenizer.encode(["red <image>"]).ids, spec)


class Echo:
    """A session whose vectors are the ids."""

    def __init__(self, bundle: Any) -> None:
        self.manifest = bundle.manifest

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self.manifest.outputs[0].name: inputs["input_ids"]}


def test_a_prompt_is_chosen_by_its_name_for_each_call(file: Path, maker: Any) -> None:
    section = {"kind": "text", "vocab_size": 8, "max_length": 5, "prompt": "the ", "prompts": {"query": "cat ", "": ""}}
    ids = [{"name": "input_ids", "dtype": "int64", "shape": ["batch", "length"]}]
    folder = maker.write(task="embedding", preprocessing=section, inputs=ids)
    shutil.copyfile(file, folder / "tokenizer.json")
    maker.seal(folder)
    bundle = open_files(folder)
    vectors = answerer_of(bundle)

    def asked(prompt: str | None, answerer: Any = vectors) -> Any:
        [answer] = answerer.answer(Echo(bundle), ["sat"], Wanted(prompt=prompt))
        return answer["embedding"]

    assert asked(None) == [2, 4, 6, 3]
    assert asked("query") == [2, 5, 6, 3]
    assert asked("") == [2, 6, 3]
    assert asked(None) == [2, 4, 6, 3]
    with pytest.raises(InputError, match="this model has no prompt 'passage'; it has 'query', ''"):
        asked("passage")
    with pytest.raises(InputError, match="goes before texts, not before token ids"):
        asked("query", answerer_of(bundle, ids=True))
