"""Trained models that come with the package, each a folder with a card (README.md), or that other packages hold."""

from __future__ import annotations

import re
from pathlib import Path

from compress.spec import unknown
from runtime.files import user_path
from targets.errors import InputError

FOLDER = Path(__file__).parent
#: The folder of the cache for what a caller gives as objects, each named by its kind and digest.
GIVEN = "given"
_LIVE = re.compile(rf".*/{GIVEN}/(\w+)-([0-9a-f]{{8}})[0-9a-f]{{16}}")
#: Zoo model -> the zoo data that it is measured on.
DATA = {
    "vit-cifar10": "zoo:cifar10-test",
    "vit-mnist": "zoo:mnist-test",
    "minilm": "zoo:sts",
    "minilm-sst2": "zoo:sst2",
    "stories260k": "zoo:stories",
    "smollm2": "zoo:stories",
    "m30k-de-en": "zoo:m30k",
}


def locate(source: str) -> Path:
    """The folder of a model given as `zoo:NAME`, as a path, or by its name on the hub; of static embeddings, of a LoRA
    adapter and of the hub's cache one of the usual form.

    Raises InputError for an unknown name or such a folder that cannot be read, EnvironmentLacks if the package that
    holds the model is not installed.
    """
    if not source.startswith("zoo:"):
        from compress.zoo import hub, hub_cache, lora, static

        path = user_path(source)
        path = path if path.exists() else hub.fetched(source) or path
        return static.usual_form(lora.usual_form(hub_cache.usual_form(path)))
    name = source.removeprefix("zoo:")
    if name not in DATA:
        raise InputError(unknown("zoo model", name, DATA))
    from compress.zoo.wheels import WHEELS

    return WHEELS[name]() if name in WHEELS else FOLDER / name


def data_of(source: str) -> str | None:
    """The data spec that a zoo model is measured on; None for a folder of the user's."""
    return DATA.get(source.removeprefix("zoo:")) if source.startswith("zoo:") else None


def named(source: str) -> str:
    """What a report calls a model: as it was given, with the commit of one from the hub; a live one by its class."""
    from compress.zoo.hub import fetched

    if live := _LIVE.fullmatch(source):
        return f"{live[1]} ({live[2]})"
    if source.startswith("zoo:") or user_path(source).exists():
        return source
    folder = fetched(source)
    return source if folder is None else f"{source.partition('@')[0]}@{folder.name}"
