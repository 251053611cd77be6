"""A Hugging Face folder's tokenizer: the file whose ids are those that transformers' AutoTokenizer gives.

Its tokenizer.json is not enough: options of tokenizer_config.json go before it, and older folders have none.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compress.data.classes import class_number, listed
from compress.data.pairs.opus_mt import is_opus_mt, opus_mt_tokenizer
from compress.json_files import read_object
from runtime.files import sha256_of
from runtime.texts.text import TOKENIZER
from targets.errors import EnvironmentLacks, InputError

CONFIG = "tokenizer_config.json"
#: What tokenizers were kept in before tokenizer.json.
OLDER = ("vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_BESIDE = ("config.json", CONFIG, TOKENIZER, "special_tokens_map.json", "added_tokens.json", "merges.txt", *OLDER)
#: Options that change no id of a single text.
_HARMLESS = {
    *("model_max_length", "max_len", "max_length", "padding_side", "truncation_side", "truncation_strategy", "stride"),
    *("pad_token_type_id", "pad_to_multiple_of", "clean_up_tokenization_spaces", "errors", "chat_template", "backend"),
    *("model_input_names", "name_or_path", "special_tokens_map_file", "tokenizer_file", "processor_class", "is_local"),
    *("local_files_only", "transformers_version"),
}
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: Numbers of tokens that any vocabulary has.
_MOST_IDS = 1 << 24
#: More tokens than this, and transformers may mend the pre-tokenizer.
_MANY = 100_000
_BERT = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"}
_PLAIN = {"PreTrainedTokenizer", "TokenizersBackend"}
_LETTERS = (
    "The Quick BROWN fox jumps over the lazy dog, isn't it? He'll say: \"WE'VE (not) won!\" 3.14 & 2,718; a_b-c/d"
)
#: Texts in which options of tokenizers differ: case, accents, scripts, spaces, controls, long words, symbols.
_PROBES = (
    *(
        _LETTERS,
        _LETTERS.upper(),
        _LETTERS.lower(),
        f"  {_LETTERS}  ",
        "a",
        " a",
        "a ",
        "",
        " ",
        "\n",
        "a\n\nb\tc\r\nd",
    ),
    *(
        "Élève naïve Ünïcödé straße İstanbul ǅ",
        "e\u0301le\u0300ve",
        "漢字かな交じり文 한국어 文字",
        "שלום مرحبا Привет МИР",
    ),
    *(
        "👩‍👩‍👧 🙂",
        "a\u00a0b\u200bc\ufeffd\u2009e",
        "x" * 130,
        "q" * 99 + " " + "W" * 101,
        "ﬁ ① ２ ㎏",
        "a\x00b\x01c\x7f",
    ),
    *(
        "http://a.b/c?d=e#f",
        "don't DON'T I'm",
        "...!!??",
        "<s> </s> [SEP] [CLS] <unk> <|endoftext|>",
        "1234567890 12 345",
    ),
)


def tokenizer_of(folder: Path) -> Path | None:
    """A tokenizer.json that gives the ids of AutoTokenizer for the folder; None where it has no tokenizer.

    Raises InputError that names the option where there can be no such file, EnvironmentLacks where transformers is
    needed to tell and is not installed.
    """
    if not (folder / TOKENIZER).is_file() and is_opus_mt(folder):
        return made_file(opus_mt_tokenizer(folder, "source"))
    if not any((folder / name).is_file() for name in (TOKENIZER, *OLDER)):
        return None
    if (folder / TOKENIZER).is_file():
        if not (folder / CONFIG).is_file():
            return folder / TOKENIZER
        doubtful = _doubtful({**_beside(folder, "special_tokens_map.json"), **_beside(folder, CONFIG)}, _whole(folder))
        doubtful += ["added_tokens.json"] if _beside(folder, "added_tokens.json") else []
        if not doubtful:
            return folder / TOKENIZER
        what = f"{folder}/{CONFIG} sets {listed(doubtful)}, which may change what {TOKENIZER} gives"
    else:
        what = f"{folder} has no {TOKENIZER}"
    _check_ids(folder)
    if importlib.util.find_spec("transformers") is None:
        raise EnvironmentLacks(f"{what}; pip install transformers, which settles it")
    files = tuple(sha256_of(folder / name) if (folder / name).is_file() else "" for name in _BESIDE)
    return _settled(folder, files)


def truncation_side(folder: Path) -> str:
    """The side at which texts that are too long are cut."""
    config = _beside(folder, CONFIG)
    own = (_whole(folder).get("truncation") or {}) if (folder / TOKENIZER).is_file() else {}
    side = config.get("truncation_side") or (own.get("direction") if isinstance(own, Mapping) else None) or "right"
    if str(side).lower() not in ("right", "left"):
        raise InputError(f"{folder}/{CONFIG}: truncation_side is {side!r}; allowed: right, left")
    return str(side).lower()


def _beside(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder, {} if it has none."""
    return read_object(folder / name) if (folder / name).is_file() else {}


def _whole(folder: Path) -> dict[str, Any]:
    return read_object(folder / TOKENIZER)


def _doubtful(config: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    """Options of which it is not sure, without asking transformers, that they agree with tokenizer.json."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    known = set(_HARMLESS)
    known |= {key for key in _TOKENS if _is_token(config.get(key), whole)}
    known |= {key for key in config if config[key] in (None, False, [], {}) and key in _OFF}
    if name in _BERT and _is_bert(config, whole):
        known |= {"tokenizer_class", *_BERT_OPTIONS}
    elif name in _PLAIN and _vocabulary(whole) <= _MANY:
        known |= {"tokenizer_class"}
    listed_tokens = config.get("added_tokens_decoder")
    if isinstance(listed_tokens, Mapping) and _same_tokens(listed_tokens, whole.get("added_tokens")):
        known.add("added_tokens_decoder")
    if "tokenizer_class" not in config:
        return [*sorted(config.keys() - known), "no tokenizer_class"]
    return sorted(config.keys() - known)


#: Options that do nothing where they are off (add_bos_token takes away what tokenizer.json adds).
_OFF = {"split_special_tokens", "never_split", "extra_special_tokens"}
_OFF |= {"additional_special_tokens", "fix_mistral_regex", "auto_map"}
_BERT_OPTIONS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "do_basic_tokenize")


def _is_token(value: Any, whole: Mapping[str, Any]) -> bool:
    """Is it a plain special token that tokenizer.json has as such?"""
    added = whole.get("added_tokens")
    plain = {
        token.get("content")
        for token in (added if isinstance(added, list) else [])
        if isinstance(token, Mapping) and token.get("special") is True
    }
    return value is None or (isinstance(value, str) and value in plain)


def _same_tokens(wanted: Mapping[str, Any], added: Any) -> bool:
    if not isinstance(added, list) or not all(isinstance(token, Mapping) for token in added):
        return False
    return {str(token.get("id")): {k: v for k, v in token.items() if k != "id"} for token in added} == dict(wanted)


def _is_bert(config: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    """Is tokenizer.json what BertTokenizer builds of these options?"""
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    model, template = whole.get("model"), whole.get("post_processor")
    if not isinstance(model, Mapping) or not isinstance(template, Mapping):
        return False
    first, last = config.get("cls_token", "[CLS]"), config.get("sep_token", "[SEP]")
    single = [_special(first), {"Sequence": {"id": "A", "type_id": 0}}, _special(last)]
    return (
        whole.get("normalizer") == normalizer
        and whole.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and model.get("type") == "WordPiece"
        and model.get("unk_token") == config.get("unk_token", "[UNK]")
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == 100
        and template.get("single") == single
        and config.get("do_basic_tokenize", True) is True
    )


def _check_ids(folder: Path) -> None:
    """Raises InputError for a token of a number that no vocabulary has: libraries would make room for all below it."""
    whole = _whole(folder) if (folder / TOKENIZER).is_file() else {}
    model, added = whole.get("model"), whole.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    decoder = _beside(folder, CONFIG).get("added_tokens_decoder")
    found = [
        *(vocabulary.values() if isinstance(vocabulary, Mapping) else ()),
        *(token.get("id") for token in (added if isinstance(added, list) else ()) if isinstance(token, Mapping)),
        *(class_number(key) for key in (decoder if isinstance(decoder, Mapping) else ())),
        *_beside(folder, "added_tokens.json").values(),
    ]
    highest = max((one for one in found if isinstance(one, int)), default=0)
    if highest >= _MOST_IDS:
        raise InputError(f"{folder}: its tokenizer has a token of the number {highest}; none has more than {_MOST_IDS}")


def _vocabulary(whole: Mapping[str, Any]) -> int:
    model = whole.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    return len(vocabulary) if isinstance(vocabulary, list | Mapping) else 0


def _special(token: Any) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


@functools.cache
def _settled(folder: Path, files: tuple[str, ...]) -> Path:
    """The folder's own tokenizer.json, or one made of AutoTokenizer in a temporary folder. `files`: their digests."""
    import tokenizers

    backend, ask = _loaded(folder)
    probes = _probes(backend.get_vocab())
    ids = ask(probes)
    own = folder / TOKENIZER
    if own.is_file() and _ids(tokenizers.Tokenizer.from_file(str(own)), probes) == ids:
        return own
    made = tokenizers.Tokenizer.from_str(backend.to_str())
    if _ids(made, probes) != ids:
        raise InputError(
            f"{folder}/{CONFIG}: no {TOKENIZER} can do what {_culprit(folder, probes)} asks for; save the tokenizer "
            "without it"
        )
    return made_file(backend.to_str(pretty=False))


@functools.cache
def made_file(text: str) -> Path:
    """A tokenizer.json of this text in a temporary folder, which goes when the process ends."""
    place = Path(tempfile.mkdtemp(prefix="edgepress-tokenizer-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / TOKENIZER).write_text(text, encoding="utf-8")
    return place / TOKENIZER


def _loaded(folder: Path) -> tuple[Any, Callable[[Sequence[str]], list[list[int]]]]:
    """The backend of AutoTokenizer's tokenizer, and what the whole of it gives for texts. Raises InputError."""
    from transformers import AutoTokenizer

    with _told(folder):
        wanted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        wanted.model_max_length = sys.maxsize  # it would warn of longer texts
        backend = wanted.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()

    def ask(texts: Sequence[str]) -> list[list[int]]:
        with _told(folder):
            return [list(wanted(text)["input_ids"]) for text in texts]

    return backend, ask


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raises InputError for all that transformers and tokenizers, which has no class of its own, raise for a file."""
    try:
        yield
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{folder}: its tokenizer cannot be opened as transformers does ({first[:120]}); save it in its fast form"
        ) from error


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [list(one.ids) for one in tokenizer.encode_batch(list(texts))]


def _probes(vocabulary: Mapping[str, int]) -> list[str]:
    """Texts that tell tokenizers apart, some of them made of the vocabulary's own tokens."""
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    some = [*tokens[:64], *tokens[64 :: max(1, len(tokens) // 256)]]
    return [*_PROBES, " ".join(some), "".join(some), *(f"a{token}b {token} c" for token in some[:32])]


def _culprit(folder: Path, probes: Sequence[str]) -> str:
    """The option without which transformers gives the ids of its own backend."""
    import tokenizers

    config = _beside(folder, CONFIG)
    with tempfile.TemporaryDirectory(prefix="edgepress-") as place:
        for name in _BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, Path(place, name))
        for key in sorted(config.keys() - {"tokenizer_class"}):
            rest = {name: value for name, value in config.items() if name != key}
            Path(place, CONFIG).write_text(json.dumps(rest), encoding="utf-8")
            with suppress(InputError):
                backend, ask = _loaded(Path(place))
                if _ids(tokenizers.Tokenizer.from_str(backend.to_str()), probes) == ask(probes):
                    return key
    return f"one of {listed(sorted(config))}"
