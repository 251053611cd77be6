"""The register of families and the way from a checkpoint folder to a `Transformer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.json_files import read_object
from compress.model.files import assemble, check_finite
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.spec import first_cause, unknown
from targets.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """A folder as read from disk: its config, its tensors by their own names, and how its inputs are prepared. `used`:
    names of the tensors that were asked for."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    preprocessing: dict[str, Any]
    used: set[str] = field(default_factory=set)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor in fp32. Raises InputError that names it if it is missing or, with `shape`, of another shape."""
        if name not in self.tensors:
            raise InputError(f"{self.folder}: the weights lack {name!r}; is it a checkpoint of another architecture?")
        self.used.add(name)
        tensor = self.tensors[name].float()
        if shape is not None and tensor.shape != shape:
            raise InputError(f"{self.folder}: {name} has the shape {tuple(tensor.shape)}, but its config says {shape}")
        return tensor

    def linear(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weight (O,I) and, where the checkpoint has one, bias (O,) of a linear map. Raises InputError."""
        weight_OI = self.tensor(f"{name}.weight")
        if f"{name}.bias" not in self.tensors:
            return weight_OI, None
        return weight_OI, self.tensor(f"{name}.bias", weight_OI.shape[:1])

    def norm(self, source: str, target: str) -> dict[str, Tensor]:
        """State entries of a norm: its gains and, where the checkpoint has them, offsets. Raises InputError.

        Checkpoints as old as the first BERT call them gamma and beta.
        """
        old = f"{source}.gamma" in self.tensors
        gain, offset = (f"{source}.gamma", f"{source}.beta") if old else (f"{source}.weight", f"{source}.bias")
        state = {f"{target}.weight.0": self.tensor(gain)}
        if offset in self.tensors:
            state[f"{target}.bias.0"] = self.tensor(offset)
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

    def check_layers(self) -> None:
        """Raises InputError for a layer among the weights that nothing was read from, though others like it were."""
        used = {_unnumbered(name) for name in self.used}
        rest = [name for name in sorted(self.tensors.keys() - self.used) if _unnumbered(name) in used]
        if rest:
            raise InputError(f"{self.folder}: the weights hold {rest[0]!r}, a layer that config.json leaves out")


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)


#: Maps a checkpoint to the structure and the weights (names of the canonical transformer).
Reader = Callable[[Checkpoint], tuple[Structure, dict[str, Tensor]]]
_READERS: dict[str, Reader] = {}
#: More than any size of a model.
_NO_SIZE = 1 << 31
_ONE_LABEL = "single_label_classification"
_ONLY = "edgepress reads safetensors only (save_pretrained writes them)"


def reads(*model_types: str) -> Callable[[Reader], Reader]:
    """Register a reader for these values of `model_type` in config.json."""

    def register(reader: Reader) -> Reader:
        for model_type in model_types:
            if model_type in _READERS:
                raise TypeError(f"two families read {model_type!r}")
            _READERS[model_type] = reader
        return reader

    return register


def known_types() -> list[str]:
    """The values of `model_type` that can be read."""
    return sorted(_READERS)


def read_checkpoint(folder: Path, preprocessing: dict[str, Any]) -> Transformer:
    """Read a Hugging Face folder (config.json and safetensors) into a `Transformer` in evaluation mode, fp32.

    Raises InputError if the folder, its config or its weights are missing, damaged, not finite or of an
    architecture that no family reads.
    """
    reader, config = _reader(folder), read_config(folder)
    tensors = _read_weights(folder)
    check_finite(tensors, folder)
    try:
        checkpoint = Checkpoint(folder, config, tensors, preprocessing)
        structure, state = reader(checkpoint)
    except ValidationError as error:
        raise InputError(f"{folder}/config.json asks for what is not supported: {first_cause(error)}") from error
    checkpoint.check_layers()
    return assemble(structure, state, folder)


def check_known(folder: Path) -> None:
    """Look whether any family reads a folder, before its weights are. Raises InputError as `read_checkpoint` does."""
    _reader(folder)


def _reader(folder: Path) -> Reader:
    given = read_config(folder).get("model_type")
    reader = _READERS.get(str(given))
    if reader is None:
        raise InputError(f"{folder}: {unknown('model_type', given, _READERS)}")
    return reader


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder. Raises InputError if there is none or it is not a JSON object."""
    if not folder.is_dir():
        raise InputError(f"no such model folder: {folder}")
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    return read_object(path)


def labels_of(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    """Class names in the order of the logits; see `labels_in`."""
    return labels_in(checkpoint.config, checkpoint.folder, count)


def labels_in(config: Mapping[str, Any], folder: Path, count: int) -> tuple[str, ...]:
    """Class names in the order of the logits; numbered ones where the config.json of `folder` names none.

    Raises InputError for an `id2label` that names others than these, and for a head that does not choose one of them.
    """
    kind = config.get("problem_type") or (_ONE_LABEL if count > 1 else "regression")
    if kind != _ONE_LABEL:
        raise InputError(f"{folder}/config.json: a head for {kind} is not supported, only for {_ONE_LABEL}")
    names = config.get("id2label") or {}
    if not isinstance(names, Mapping):
        raise InputError(f"{folder}/config.json: id2label must map numbers to names, not be {names!r}")
    if names and {str(key) for key in names} != set(map(str, range(count))):
        raise InputError(
            f"{folder}/config.json: id2label names {', '.join(map(str, names))}, but the weights have "
            f"{count} classes, from 0; name each of them"
        )
    return tuple(str(names.get(str(index), names.get(index, f"LABEL_{index}"))) for index in range(count))


def stacked(prefix: str, projections: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """State entries of projections by name: weight (out, in) and, where given, bias (out) of the only loop."""
    state = {}
    for name, (weight, bias) in projections.items():
        state[f"{prefix}.{name}.weight"] = weight
        if bias is not None:
            state[f"{prefix}.{name}.bias.0"] = bias
    return state


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors or of the shards that model.safetensors.index.json lists."""
    index = folder / "model.safetensors.index.json"
    files = [folder / "model.safetensors"]
    if index.is_file():
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise InputError(f"{index} has no weight_map; fetch it again")
        files = sorted({folder / Path(name).name for name in shards.values()})
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            advice = f"{index.name} names it; fetch it again" if index.is_file() else _ONLY
            raise InputError(f"{file} is missing; {advice}")
        try:
            with safe_open(file, framework="pt") as stream:
                tensors |= {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"{file} is damaged or truncated ({error}); fetch it again") from error
    return tensors
