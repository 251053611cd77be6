"""A checkpoint as it was read from disk, and what of it a family used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.families.purpose import Purpose
from targets.errors import InputError

#: More than any size of a model.
_NO_SIZE = 1 << 31
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: What saved modules carry beside their weights: places, masks and tables that are computed again.
_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|relative_position_index|inv_freq|rotary_emb\.\w+|(attn|attention)\.(masked_)?bias"
    r"|masked_bias|mask_token|num_batches_tracked|embed_positions\._float_tensor|decoder_pos_embed)$"
)
#: Parts behind the body, of which a task uses one or none.
_HEADS = re.compile(
    r"^(\w+\.)?(pooler|cls|lm_head|classifier|pre_classifier|score|qa_outputs|vocab_\w+|predictions|generator_\w+"
    r"|discriminator_\w+|mlm_head|head|decoder|sop_classifier|auxiliary_head|logit_scale|logit_bias)(\.|$)"
)


class Config(Mapping[str, Any]):
    """A config.json that remembers which of its options were looked at."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def unread(self) -> dict[str, Any]:
        """The options that nothing looked at."""
        return {name: value for name, value in self._options.items() if name not in self.read}


@dataclass(frozen=True)
class Checkpoint:
    """A folder as read from disk: its config, its tensors by their own names, how its inputs are prepared, and what it
    is for. `used`: names of the tensors that were asked for."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    preprocessing: dict[str, Any]
    purpose: Purpose
    used: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor in fp32. Raises InputError that names it if it is missing, is not of floating point or, with
        `shape`, of another shape."""
        if name not in self.tensors:
            raise InputError(f"{self.folder}: the weights lack {name!r}; {self._instead(name)}")
        self.used.add(name)
        tensor = self.tensors[name]
        if tensor.dtype not in _FLOATS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"{self.folder}: {name} is stored as {dtype}, not as floating point; save it in fp16 or fp32"
            )
        if not tensor.numel() and tensor.shape != shape:
            raise InputError(
                f"{self.folder}: {name} is empty, of the shape {tuple(tensor.shape)}; save the model again"
            )
        if shape is not None and tensor.shape != shape:
            raise InputError(f"{self.folder}: {name} has the shape {tuple(tensor.shape)}, but its config says {shape}")
        return tensor.float()

    def _instead(self, name: str) -> str:
        behind = [one for one in self.tensors if one.endswith(f".{name}")]
        if behind:
            return f"they hold {min(behind, key=len)!r}, saved from inside another model: save that part alone"
        return "is it a checkpoint of another architecture?"

    def matrix(self, name: str) -> Tensor:
        """A tensor of two dimensions. Raises InputError."""
        tensor = self.tensor(name)
        if tensor.ndim != 2:
            raise InputError(f"{self.folder}: {name} has the shape {tuple(tensor.shape)}, but a matrix is wanted")
        return tensor

    def linear(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weight (O,I) and, where the checkpoint has one, bias (O,) of a linear map. Raises InputError."""
        weight_OI = self.matrix(f"{name}.weight")
        if f"{name}.bias" not in self.tensors:
            return weight_OI, None
        return weight_OI, self.tensor(f"{name}.bias", weight_OI.shape[:1])

    def norm(self, source: str, target: str, plus: float = 0.0) -> dict[str, Tensor]:
        """State entries of a norm: its gains (and `plus`, where they are stored less one) and, where the checkpoint
        has them, offsets. Raises InputError.

        Checkpoints as old as the first BERT call them gamma and beta.
        """
        old = f"{source}.gamma" in self.tensors
        gain, offset = (f"{source}.gamma", f"{source}.beta") if old else (f"{source}.weight", f"{source}.bias")
        state = {f"{target}.weight.0": self.tensor(gain) + plus}
        if offset in self.tensors:
            state[f"{target}.bias.0"] = self.tensor(offset).clone()  # two norms may be read from one
        return state

    def option(self, name: str, default: Any = None) -> Any:
        """A value of the config. Raises InputError if it is missing or null and has no default."""
        value = self.config.get(name)
        value = default if value is None else value
        if value is None:
            raise InputError(f"{self.folder}/config.json lacks {name!r}")
        return value

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of the config, from `least` on. Raises InputError for anything else."""
        value = self.option(name, default)
        if type(value) is not int or not least <= value < _NO_SIZE:
            whole = f"a whole number from {least} to {_NO_SIZE - 1}"
            raise InputError(f"{self.folder}/config.json: {name} must be {whole}, not {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number of the config. Raises InputError for anything else."""
        return finite(self.option(name, default), f"{self.folder}/config.json: {name}")

    def flag(self, name: str, default: bool) -> bool:
        """A yes or no of the config. Raises InputError for anything else."""
        value = self.option(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.folder}/config.json: {name} must be true or false, not {value!r}")
        return value

    def left(self) -> list[str]:
        """Names of heads and poolers that the task does not use. Raises InputError for a tensor that nothing was read
        from and that is none of these, nor what is computed again (places, masks)."""
        rest = sorted(name for name in self.tensors.keys() - self.used if not _BUFFERS.search(name))
        used = {_unnumbered(name) for name in self.used}
        layer = next((name for name in rest if _unnumbered(name) in used and _unnumbered(name) != name), None)
        if layer is not None:
            raise InputError(f"{self.folder}: the weights hold {layer!r}, a layer that config.json leaves out")
        strange = next((name for name in rest if not _HEADS.search(name)), None)
        if strange is not None:
            raise InputError(
                f"{self.folder}: the weights hold {strange!r}, which a {self.config['model_type']!r} model does not "
                "have; is it of another model_type?"
            )
        return rest


def finite(value: object, where: str) -> float:
    """A finite number. Raises InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where} must be a finite number, not {value!r}")
    return float(value)


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)
