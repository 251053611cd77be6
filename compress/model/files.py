"""A model as files: `structure.json` and `model.safetensors`. Loading needs no code of the user's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from compress.json_files import read_json
from compress.model.structure import SCHEMA_VERSION, Structure
from compress.model.transformer import Transformer
from compress.spec import first_cause
from runtime.files import write_atomic
from targets.errors import InputError

STRUCTURE_FILE = "structure.json"
WEIGHTS_FILE = "model.safetensors"


def save(model: Transformer, folder: Path) -> None:
    """Write the model into a folder; the same model gives the same bytes."""
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in sorted(model.state_dict().items())}
    write_atomic(folder / WEIGHTS_FILE, save_tensors(state))
    structure = model.structure.model_dump(mode="json")
    write_atomic(folder / STRUCTURE_FILE, (json.dumps(structure, indent=1) + "\n").encode())


def load(folder: Path) -> Transformer:
    """Read a saved model, in evaluation mode.

    Raises InputError if a file is missing or truncated, the structure is not understood, a tensor is missing, of
    another shape, or not finite.
    """
    structure_file = folder / STRUCTURE_FILE
    if not structure_file.is_file():
        raise InputError(f"{folder} is not a compressed model: it has no {STRUCTURE_FILE}")
    structure = _read_structure(structure_file)
    return assemble(structure, read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)


def _read_structure(path: Path) -> Structure:
    document = read_json(path)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {version}, but this edgepress reads {SCHEMA_VERSION}; install a newer edgepress"
        )
    try:
        return Structure.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {first_cause(error)}") from error


def assemble(structure: Structure, tensors: dict[str, Tensor], origin: Path) -> Transformer:
    """Build a model and fill in its weights, checked one by one; `origin` is named in the errors of load()."""
    with torch.device("meta"):
        model = Transformer(structure)
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has the unknown {extra[0]!r}"
        raise InputError(f"{origin} {what} ({len(missing)} tensors missing, {len(extra)} unknown)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(f"{origin}: {name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
    check_finite(tensors, origin)
    whole = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    model.load_state_dict(whole, assign=True)
    return model.requires_grad_(True).eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises InputError if it is missing, truncated or damaged."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        return load_tensors(path.read_bytes())
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated ({error}); fetch it again") from error


def check_finite(tensors: dict[str, Tensor], origin: Path) -> None:
    """Raises InputError that names the first tensor with NaN or infinity in it."""
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point() and tensor.itemsize > 1 and not _is_finite(tensor):
            raise InputError(f"{origin}: {name} holds NaN or infinite values; the checkpoint is broken")


def _is_finite(tensor: Tensor) -> bool:
    """By its ends, which are NaN where it holds one: without the copies that `isfinite` makes of a large table."""
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
