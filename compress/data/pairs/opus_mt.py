"""The tokenizers of an OPUS-MT folder: two SentencePiece models with a vocabulary of its own order.

Its pieces become a Unigram model whose list is in the order of vocab.json, one file for each language. A piece that
only the other language has keeps its place under a name that no text can match. MarianTokenizer looks up what a model
does not know in the vocabulary of both, so single characters of the other language match where nothing else does; it
takes several unknown ones in a row for one unknown token, where this gives each its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from compress.json_files import read_object
from targets.errors import EnvironmentLacks, InputError

VOCABULARY = "vocab.json"
FILES = {"source": "source.spm", "target": "target.spm"}
#: Goes before the names of pieces that must not match; the normalizer takes it out of texts.
_NEVER = "\x01"
_PLAIN, _USER_DEFINED = 1, 4  # types of a piece in SentencePiece's ModelProto
_UNIGRAM = 1
_UNKNOWN = 10.0  # how far below all pieces SentencePiece ranks a character that it does not know
_SPECIAL = ("eos_token", "unk_token", "pad_token")
_USUAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def is_opus_mt(folder: Path) -> bool:
    """Whether the folder holds SentencePiece models of OPUS-MT's layout, or one of the two."""
    return any((folder / name).is_file() for name in FILES.values())


def opus_mt_tokenizer(folder: Path, side: Literal["source", "target"]) -> str:
    """A tokenizer.json that gives the ids of transformers' MarianTokenizer for texts of one language.

    Raises InputError for files that are missing, damaged or of another kind, EnvironmentLacks without the package
    sentencepiece.
    """
    for name in (*FILES.values(), VOCABULARY):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}, which its tokenizer needs; fetch it again")
    config = folder / "tokenizer_config.json"
    options = read_object(config) if config.is_file() else {}
    if options.get("separate_vocabs"):
        raise InputError(f"{config}: separate_vocabs is not supported; a model with one vocabulary is")
    ids = _ids(folder / VOCABULARY)
    model = _model(folder / FILES[side])
    scores = {one.piece: one.score for one in model.pieces if one.type in (_PLAIN, _USER_DEFINED)}
    lacking = sorted(scores.keys() - ids.keys())
    if lacking:
        raise InputError(
            f"{folder}/{FILES[side]} has {len(lacking)} pieces that {VOCABULARY} lacks ({lacking[0]!r} is one); "
            "no tokenizer.json can say what they stand for"
        )
    special = {name: str(options.get(name) or _USUAL[name]) for name in _SPECIAL}
    without = [token for token in special.values() if token not in ids]
    if without:
        raise InputError(f"{folder}/{VOCABULARY} has no token {without[0]!r}; add it")
    return json.dumps(_whole(model, ids, scores, special), ensure_ascii=False)


def _whole(
    model: Any, ids: Mapping[str, int], scores: Mapping[str, float], special: Mapping[str, str]
) -> dict[str, Any]:
    """The contents of a tokenizer.json."""
    import base64

    named = sorted(ids, key=ids.__getitem__)
    codes = [name for name in named if name.startswith(">>") and name.endswith("<<")]
    kept = {*special.values(), *codes}
    lowest = min(scores.values())

    def piece(name: str) -> tuple[str, float]:
        if name in scores:
            return name, scores[name]
        if name in kept:
            return name, lowest
        return (name, lowest - _UNKNOWN) if len(name) == 1 else (_NEVER + name, lowest)

    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    end = special["eos_token"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, ids[token], token not in codes) for token in [*special.values(), *codes]],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"String": _NEVER}, "content": ""},
                *([{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []),
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
            ],
        },
        "pre_tokenizer": _METASPACE,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {end: {"id": end, "ids": [ids[end]], "tokens": [end]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": _NEVER}, "content": ""}, _METASPACE],
        },
        "model": {
            "type": "Unigram",
            "unk_id": ids[special["unk_token"]],
            "vocab": list(map(piece, named)),
            "byte_fallback": False,
        },
    }


#: Pieces do not cross spaces, and a text begins with one.
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def _added(token: str, at: int, special: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": at, "content": token, **plain, "special": special}


def _ids(path: Path) -> dict[str, int]:
    """Raises InputError where the numbers of the tokens are not 0, 1, 2 and so on."""
    ids = read_object(path)
    if sorted(ids.values(), key=repr) != sorted(range(len(ids)), key=repr):
        raise InputError(f"{path}: the tokens are not numbered from 0 to {len(ids) - 1}; fetch it again")
    return ids


def _model(path: Path) -> Any:
    """SentencePiece's ModelProto. Raises InputError for anything but a Unigram model that adds a space in front."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise EnvironmentLacks(f"{path} is read with sentencepiece; pip install sentencepiece protobuf") from error
    generated: Any = sentencepiece_model_pb2
    model = generated.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is damaged: it is not a SentencePiece model; fetch it again") from error
    if not model.pieces:
        raise InputError(f"{path} is damaged: it has no pieces; fetch it again")
    normal, trained = model.normalizer_spec, model.trainer_spec
    odd = {
        "a model that is not Unigram": trained.model_type != _UNIGRAM,
        "byte_fallback": trained.byte_fallback,
        "treat_whitespace_as_suffix": trained.treat_whitespace_as_suffix,
        "no add_dummy_prefix": not normal.add_dummy_prefix,
        "no remove_extra_whitespaces": not normal.remove_extra_whitespaces,
        "no escape_whitespaces": not normal.escape_whitespaces,
    }
    asked = [what for what, is_so in odd.items() if is_so]
    if asked:
        raise InputError(f"{path} is a SentencePiece model with {asked[0]}, which is not supported")
    return model
