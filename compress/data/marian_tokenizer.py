"""The tokenizers of an OPUS-MT folder, source.spm, target.spm and vocab.json, as tokenizer.json files."""

from __future__ import annotations

from pathlib import Path

#: The tokenizer of the texts that are written, where it is not that of the sources.
TARGET_TOKENIZER = "target_tokenizer.json"


def target_tokenizer_of(folder: Path) -> Path | None:
    """A tokenizer.json of the texts that the folder's model writes; None where the sources' serves for both."""
    own = folder / TARGET_TOKENIZER
    return own if own.is_file() else None
