"""A trained model as a small difference to the weights of another: low-rank products, and whole vectors and heads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from compress.model.files import read_tensors
from runtime.files import write_atomic
from targets.errors import InputError

#: `NAME.down` (R,I) and `NAME.up` (O,R): NAME grows by up @ down. `NAME.added`: grows by it. `NAME.whole`: is it.
DOWN, UP, ADDED, WHOLE = ".down", ".up", ".added", ".whole"


def save_difference(parts: dict[str, Tensor], path: Path) -> None:
    """Write the parts, named as above, in fp16. Same parts, same bytes."""
    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in sorted(parts.items())}
    write_atomic(path, save_tensors(halves))


def apply_difference(base: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The other model's tensors, fp32. Raises InputError if the file is damaged or does not fit `base`."""
    parts = {name: tensor.float() for name, tensor in read_tensors(path).items()}
    result = {name: tensor.float() for name, tensor in base.items()}
    for name, part in parts.items():
        target, _, kind = name.rpartition(".")
        if f".{kind}" == WHOLE:
            result[target] = part
            continue
        if target not in base:
            raise InputError(f"{path} changes {target!r}, which the base model lacks; it belongs to another model")
        if f".{kind}" == DOWN:
            part = parts[target + UP] @ part
        if f".{kind}" in (DOWN, ADDED):
            if part.shape != base[target].shape:
                shapes = f"{tuple(part.shape)} and {tuple(base[target].shape)}"
                raise InputError(f"{path}: the change of {target} and the base's have the shapes {shapes}")
            result[target] = base[target].float() + part
    return {name: tensor.contiguous() for name, tensor in result.items() if torch.is_floating_point(tensor)}
