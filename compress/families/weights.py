"""The tensors of a checkpoint folder, from the files that transformers would take.

O outputs, I inputs.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.families.quantized import dequantized
from compress.json_files import read_object
from targets.errors import InputError

Note = Callable[[str], None]
_WHOLE, _PARTS = "model.safetensors", "model.safetensors.index.json"
_OLD_WHOLE, _OLD_PARTS = "pytorch_model.bin", "pytorch_model.bin.index.json"
#: What torch.load raises for a damaged file.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)
#: What training frameworks put in front of every name.
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.")


def read_weights(folder: Path, config: Mapping[str, Any], note: Note) -> dict[str, Tensor]:
    """All tensors of the folder; those in 8 bits as what they stand for. What was done to them goes to `note`.

    Raises InputError if a file is missing or damaged, holds more than tensors, or holds tensors in a form that cannot
    be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in _files(folder, note):
        tensors |= _read_pickled(file) if file.suffix == ".bin" else read_safetensors(file)
    tensors = _unwrapped(tensors, note)
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise InputError(f"{folder}: {name} holds complex numbers, which no model here has")
    return dequantized(tensors, config, folder, note)


def _files(folder: Path, note: Note) -> list[Path]:
    """One whole file wins over shards, as in transformers, and safetensors over pickled files."""
    for whole, parts in ((_WHOLE, _PARTS), (_OLD_WHOLE, _OLD_PARTS)):
        if (folder / whole).is_file():
            if (folder / parts).is_file():
                note(f"{parts} is left: {whole} is there, and transformers takes that")
            return [folder / whole]
        if (folder / parts).is_file():
            return _shards(folder / parts)
    others = sorted(
        file.name for kind in ("*.h5", "*.msgpack", "*.gguf", "*.pt", "*.pth") for file in folder.glob(kind)
    )
    instead = f"; {others[0]} is not read, save_pretrained writes what is" if others else ""
    raise InputError(f"{folder / _WHOLE} is missing, and so is {_OLD_WHOLE}{instead}")


def _shards(index: Path) -> list[Path]:
    content = read_object(index)
    shards = content.get("weight_map")
    if not isinstance(content.get("metadata", {}), dict):
        raise InputError(f"{index}: metadata is not a table; fetch it again")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{index} has no weight_map from names of tensors to names of files; fetch it again")
    files = sorted({index.parent / Path(name).name for name in shards.values()})
    for file in files:
        if not file.is_file():
            raise InputError(f"{_short(str(file))} is missing; {index.name} names it; fetch it again")
    return files


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises InputError if it is damaged."""
    try:
        with safe_open(file, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{file} is damaged or truncated ({_short(str(error))}); fetch it again") from error


def _read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a file of torch.save, without running what else it may hold."""
    try:
        _check_unpacked(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file} is damaged, or holds more than tensors, which is not run here; save it as safetensors"
        ) from error
    except _DAMAGED as error:
        cause = str(error).partition("\n")[0][:80] or type(error).__name__
        raise InputError(f"{file} is damaged or truncated ({cause}); fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file} is not a table of tensors by name; save the model with save_pretrained")
    return {str(name): tensor for name, tensor in content.items()}


def _check_unpacked(file: Path) -> None:
    """Raises ValueError for a zip whose members are larger than it: torch.save compresses nothing, and torch.load makes
    room for what they declare."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > file.stat().st_size:
        raise ValueError(f"it unpacks to {size >> 20} MB")


def _unwrapped(tensors: dict[str, Tensor], note: Note) -> dict[str, Tensor]:
    """Names without what a training framework put in front of all of them."""
    for wrapper in _WRAPPERS * 2:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            note(f"the weights were saved from inside a wrapper: {wrapper!r} in front of every name is left out")
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:116]} ..."
