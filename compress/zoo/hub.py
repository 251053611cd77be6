"""Models of the Hugging Face hub by their names, `owner/name` or `owner/name@revision`."""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from pathlib import Path

from targets.errors import InputError

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
#: Weights in safetensors alone, and what is read beside them: no pickles, and no code.
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*/config.json", "*/*.safetensors")


@functools.cache
def fetched(source: str) -> Path | None:
    """The folder of the model in the hub's cache, fetched where the network is there; its name is the commit. None for
    what is not such a name, without huggingface_hub, and for a model that can neither be fetched nor is in the cache.

    Raises InputError for a model without weights in safetensors.
    """
    if not _NAME.fullmatch(source) or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_FILES)))
    except (OSError, ValueError):  # no network, no such model, not a name: the caller says what to do instead
        return None
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{source} on the hub has no weights in safetensors; ask for another revision, or convert it")
    return folder
