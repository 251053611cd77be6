"""A folder as OPUS-MT's translators come: two SentencePiece models and a vocabulary in an order of its own."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import MarianTokenizer

from compress.data.pairs.opus_mt import opus_mt_tokenizer
from compress.data.pairs.target_text import target_tokenizer_of
from compress.data.tokenizer import tokenizer_of
from compress.tasks.text_to_text import TASK
from runtime.texts.text import TextPreprocessing, Tokenizer, parse_preprocessing
from targets.errors import InputError

GERMAN = "ein hund läuft über die wiese und zwei männer spielen im park mit einem großen roten ball vor dem alten haus"
ENGLISH = "a dog runs over the meadow and two men are playing in the park with a big red ball in front of the old house"
ODD = [
    "  two  men\tplay ",
    "ﬁ ① ２ Cafe e\u0301",
    "漢字 3 big",
    "in</s>in",
    "\x01ball",
    "a\u200bb\u00a0c",
    ">>eng<< in",
    "",
    " ",
]
SOURCES = ["ein Hund läuft.", "Großes HAUS, 3 Bälle!", *ODD]
TARGETS = ["A dog runs.", "The dog läuft", *ODD]


def trained(words: str, size: int, path: Path, **options: Any) -> None:
    """A small SentencePiece model of these words in random sentences."""
    import sentencepiece

    chosen = random.Random(size)
    lines = [" ".join(chosen.choices(words.split(), k=6)).capitalize() + "." for _ in range(400)]
    kind = {"model_type": "unigram", "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(path.with_suffix("")), vocab_size=size, **kind
    )
    path.with_suffix(".model").rename(path)
    path.with_suffix(".vocab").unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sentencepiece

    place = tmp_path_factory.mktemp("opus")
    for name, words in (("source.spm", GERMAN), ("target.spm", ENGLISH)):
        trained(words, 80, place / name)
    pieces = set()
    for name in ("source.spm", "target.spm"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(place / name))
        pieces |= {model.id_to_piece(at) for at in range(model.get_piece_size())} - {"<s>", "</s>", "<unk>"}
    mixed = ["</s>", "<unk>", *random.Random(0).sample(sorted(pieces), len(pieces)), ">>eng<<", "<pad>"]
    (place / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(mixed)}))
    (place / "tokenizer_config.json").write_text(json.dumps({"source_lang": "de", "target_lang": "en"}))
    special = {"decoder_start_token_id": len(mixed) - 1, "eos_token_id": 0, "pad_token_id": len(mixed) - 1}
    sizes = {"vocab_size": len(mixed), "max_position_embeddings": 64}
    (place / "config.json").write_text(json.dumps({"model_type": "marian", **sizes, **special}))
    return place


@pytest.fixture(scope="module")
def original(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends a package that no id depends on
        return MarianTokenizer.from_pretrained(str(folder))


def opened(path: Path | None, size: int) -> Tokenizer:
    assert path is not None
    return Tokenizer(path, TextPreprocessing("text", size, 512))


def test_texts_of_both_languages_have_the_ids_of_transformers(folder: Path, original: Any) -> None:
    size = len(original.get_vocab())
    source, target = opened(tokenizer_of(folder), size), opened(target_tokenizer_of(folder), size)
    end = [original.eos_token_id]
    chosen = random.Random(1)
    letters = sorted({*GERMAN, *" .0123漢"})
    drawn = ["".join(chosen.choices(letters, k=chosen.randint(1, 40))) for _ in range(200)]
    for text in [*SOURCES, *drawn]:
        assert source.encode_bare([text])[0] + end == original(text)["input_ids"], text
    for text in TARGETS:
        assert target.encode_bare([text])[0] + end == original(text_target=text)["input_ids"], text
    assert source.encode(["ein Hund"]).ids == [original("ein Hund")["input_ids"]]


def test_ids_are_written_as_transformers_writes_them(folder: Path, original: Any) -> None:
    target = opened(target_tokenizer_of(folder), len(original.get_vocab()))
    chosen = random.Random(2)
    for _ in range(100):
        ids = chosen.choices(range(2, len(original.get_vocab()) - 2), k=8)
        assert target.decode(ids).strip() == original.decode(ids, skip_special_tokens=True), ids


def test_a_bundle_gets_a_tokenizer_for_each_language(folder: Path, original: Any, tmp_path: Path) -> None:
    spec = parse_preprocessing(TASK.preprocessing(folder, note=lambda text: None))
    TASK.copy_files(folder, tmp_path)
    assert spec.target is not None and spec.target.tokenizer != spec.tokenizer
    source, target = (Tokenizer(tmp_path / name, spec) for name in (spec.tokenizer, spec.target.tokenizer))
    assert source.encode(["ein Hund"]).ids == [original("ein Hund")["input_ids"]]
    assert target.encode(["a dog"]).ids == [original(text_target="a dog")["input_ids"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("target.spm", None, "has no target.spm"),
        ("vocab.json", None, "has no vocab.json"),
        ("source.spm", b"", "it has no pieces"),
        ("source.spm", b"\x0a\xff\xff", "it is not a SentencePiece model"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1, "<pad>": 2}', "pieces that vocab.json lacks"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 7}', "not numbered from 0 to 1"),
        ("tokenizer_config.json", b'{"separate_vocabs": true}', "separate_vocabs is not supported"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    folder: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    for file in folder.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        opus_mt_tokenizer(tmp_path, "source")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_model_of_another_kind_is_refused_by_its_kind(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "source.spm").unlink()
    trained(GERMAN, 80, tmp_path / "source.spm", model_type="bpe")
    with pytest.raises(InputError, match="not Unigram"):
        tokenizer_of(tmp_path)
