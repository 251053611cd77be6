"""A trained model as a small difference to the weights of another: low-rank products, added vectors, new heads.

R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save as save_tensors
from torch import Tensor

from compress.model.files import read_tensors
from runtime.files import write_atomic
from targets.errors import InputError

#: `NAME.up` (O,R) and `NAME.down` (R,I): their product is added to NAME; `NAME.delta` is added. Any other name: is it.
UP, DOWN, DELTA = ".up", ".down", ".delta"


def save_difference(parts: Mapping[str, Tensor], path: Path) -> None:
    """Write the parts, named as above, in fp16. Same parts, same bytes."""
    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in sorted(parts.items())}
    write_atomic(path, save_tensors(halves))


def apply_difference(base: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The other model's tensors, fp32 where they changed. Raises InputError if the file is damaged or does not fit."""
    parts = {name: tensor.float() for name, tensor in read_tensors(path).items()}
    result = dict(base)
    for name, part in parts.items():
        if name.endswith(DOWN):
            continue
        kind = next((kind for kind in (UP, DELTA) if name.endswith(kind)), "")
        target = name.removesuffix(kind)
        change = part @ parts[target + DOWN] if kind == UP else part
        if not kind:
            result[name] = part
            continue
        if target not in base or change.shape != base[target].shape:
            raise InputError(f"{path}: {name} fits no tensor of the base model; it belongs to another one")
        result[target] = base[target].float() + change
    return result
