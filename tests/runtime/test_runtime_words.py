"""Words and entities: spans as seqeval reads them, words found again in their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_texts import model_folder

from runtime.texts.text import Tokenizer, parse_preprocessing
from runtime.texts.words import Entity, entities_of, first_tokens, places_of

TAGS = ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in ("PER", "LOC", "X-Y"))]


@settings(deadline=None)
@given(st.lists(st.sampled_from(TAGS), max_size=12))
def test_entities_are_those_of_seqeval(tags: list[str]) -> None:
    labelling = pytest.importorskip("seqeval.metrics.sequence_labeling", reason="needs seqeval as the oracle")
    assert [tuple(one) for one in entities_of(tags)] == labelling.get_entities(tags)


def test_tags_without_a_scheme_are_runs_of_one_kind() -> None:
    found = [Entity("PER", 0, 1), Entity("LOC", 3, 3), Entity("PER", 4, 4)]
    assert entities_of(["PER", "PER", "O", "LOC", "PER"]) == found
    assert entities_of([]) == [] and entities_of(["O"]) == []


def test_the_first_token_of_each_word_is_found_and_words_that_were_cut_have_none(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", "embedding")
    spec = parse_preprocessing({"kind": "text", "vocab_size": 64, "max_length": 6})
    tokenizer = Tokenizer(folder / "tokenizer.json", spec)
    text = "w1  w2-w3 w4 w5"
    assert places_of(text) == [(0, 2), (4, 9), (10, 12), (13, 15)]
    ids = tokenizer.encode([text]).ids[0]
    assert len(ids) == 6  # [CLS] w1 w2 - w3 [SEP]
    assert first_tokens(tokenizer, [text]) == [[1, 2, -1, -1]]
