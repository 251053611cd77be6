"""What a folder says of the texts that its decoder writes: where they begin and end, and how its makers search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.data.pairs.opus_mt import is_opus_mt, opus_mt_tokenizer
from compress.data.tokenizer import made_file
from compress.json_files import read_object
from runtime.texts.text import TOKENIZER
from targets.errors import InputError

#: The tokenizer of the texts that are written, where it is not that of the sources.
TARGET_TOKENIZER = "target_tokenizer.json"
#: Tokens of a text where nothing says more.
_LONGEST = 512


def target_section(folder: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """The `target` of a `preprocessing` section, by config.json and generation_config.json, as transformers reads them.

    Raises InputError where nothing says with which token a text begins, or which one ends it.
    """
    generation = folder / "generation_config.json"
    config = read_object(folder / "config.json")
    given = {**config, **(read_object(generation) if generation.is_file() else {})}
    start = given.get("decoder_start_token_id")
    if not isinstance(start, int):
        raise InputError(
            f"{folder}/config.json does not say which token its decoder begins with (decoder_start_token_id); add it"
        )
    if not section["stop"]:
        raise InputError(f"{folder}/config.json does not say which token ends a text (eos_token_id); add it")
    forced = given.get("forced_bos_token_id")
    banned = [one[0] for one in given.get("bad_words_ids") or [] if isinstance(one, list) and len(one) == 1]
    banned += [one for one in given.get("suppress_tokens") or [] if isinstance(one, int)]
    found = {
        "start": start,
        "max_length": max(1, min(int(section["max_length"]), _whole(given.get("max_length")) or _LONGEST) - 1),
        "forced": [forced] if isinstance(forced, int) else [],
        "banned": sorted(set(banned)),
        "beams": _whole(given.get("num_beams")) or 1,
        "length_penalty": float(given.get("length_penalty") or 1.0),
        "no_repeat": _whole(given.get("no_repeat_ngram_size")) or 0,
        "early": given.get("early_stopping") is True,
    }
    return found if target_tokenizer_of(folder) is None else {**found, "tokenizer": TARGET_TOKENIZER}


def target_tokenizer_of(folder: Path) -> Path | None:
    """A tokenizer.json of the texts that the folder's model writes; None where the sources' serves for both."""
    own = folder / TARGET_TOKENIZER
    if own.is_file() or (folder / TOKENIZER).is_file() or not is_opus_mt(folder):
        return own if own.is_file() else None
    return made_file(opus_mt_tokenizer(folder, "target"))


def _whole(value: object) -> int | None:
    """A number above 0; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
