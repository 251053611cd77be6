"""The register of families and the way from a checkpoint folder to a `Transformer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from compress.families.checkpoint import Checkpoint, Config
from compress.families.folders import read_config
from compress.families.options import check_class, check_options
from compress.families.purpose import Purpose
from compress.families.weights import read_weights
from compress.model.files import assemble, check_finite
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.spec import first_cause
from targets.errors import InputError

__all__ = ["Checkpoint", "check_known", "known_types", "labels_in", "labels_of", "read_checkpoint", "reads", "stacked"]

#: Maps a checkpoint to the structure and the weights (names of the canonical transformer).
Reader = Callable[[Checkpoint], tuple[Structure, dict[str, Tensor]]]
_READERS: dict[str, Reader] = {}
#: model_type -> how the names of its classes begin, in small letters, where they do not begin with the model_type.
_STEMS: dict[str, tuple[str, ...]] = {}
_ONE_LABEL = "single_label_classification"


def reads(*model_types: str, classes: tuple[str, ...] = ()) -> Callable[[Reader], Reader]:
    """Register a reader for these values of `model_type` in config.json. `classes`: how the names of the classes in
    `architectures` begin, in small letters, where it is not with the model_type."""

    def register(reader: Reader) -> Reader:
        for model_type in model_types:
            if model_type in _READERS:
                raise TypeError(f"two families read {model_type!r}")
            _READERS[model_type], _STEMS[model_type] = reader, classes
        return reader

    return register


def known_types() -> list[str]:
    """The values of `model_type` that can be read."""
    return sorted(_READERS)


def _silent(line: str) -> None:
    pass


def read_checkpoint(
    folder: Path, purpose: Purpose, preprocessing: dict[str, Any], note: Callable[[str], None] = _silent
) -> Transformer:
    """Read a Hugging Face folder (config.json and weights) into a `Transformer` in evaluation mode, fp32. What a user
    should know of how it was read goes to `note`. `compress.tasks.read_checkpoint` finds the purpose by the folder.

    Raises InputError if the folder, its config or its weights are missing, damaged, not finite or of an
    architecture that no family reads, and for a tensor or an option of the config that matters and that its family
    does not know.
    """
    config = Config(read_config(folder))
    reader = _reader(folder, config)
    tensors = read_weights(folder, config, note)
    check_finite(tensors, folder)
    checkpoint = Checkpoint(folder, config, tensors, preprocessing, purpose)
    check_class(checkpoint, _STEMS[str(config["model_type"])])
    try:
        structure, state = reader(checkpoint)
    except ValidationError as error:
        raise InputError(f"{folder}/config.json asks for what is not supported: {first_cause(error)}") from error
    left = checkpoint.left()
    if left:
        note(f"not read, since {structure.task} does not use it: {_few(left)}")
    check_options(checkpoint, note)
    return assemble(structure, state, folder)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def check_known(folder: Path) -> None:
    """Look whether any family reads a folder, before its weights are. Raises InputError as `read_checkpoint` does."""
    _reader(folder, read_config(folder))


def _reader(folder: Path, config: Mapping[str, Any]) -> Reader:
    given = config.get("model_type")
    if not isinstance(given, str):
        said = "has no model_type" if given is None else f"has the model_type {str(given)[:40]}, which is not a name"
        raise InputError(f"{folder}/config.json {said}; put back the one that the model was saved with")
    reader = _READERS.get(str(given))
    if reader is not None:
        return reader
    plain = [kind for kind in _READERS if _plain(kind) == _plain(str(given))]
    hint = f"; did you mean {plain[0]!r}?" if plain else ""
    raise InputError(f"{folder}: unknown model_type {given!r}{hint} (known: {', '.join(known_types())})")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def labels_of(checkpoint: Checkpoint, count: int, problem_type: str = _ONE_LABEL) -> tuple[str, ...]:
    """Class names in the order of the logits; see `labels_in`. None for a head of one number. Raises InputError for one
    of several."""
    if checkpoint.purpose.head == "score":
        if count != 1:
            raise InputError(f"{checkpoint.folder}: config.json names one output, but the weights have {count}")
        return ()
    return labels_in(checkpoint.config, checkpoint.folder, count, problem_type)


def labels_in(config: Mapping[str, Any], folder: Path, count: int, problem_type: str = _ONE_LABEL) -> tuple[str, ...]:
    """Class names in the order of the logits; numbered ones where the config.json of `folder` names none.

    Raises InputError for an `id2label` that names others than these, and for a head that is for another problem than
    `problem_type`.
    """
    kind = config.get("problem_type") or (_ONE_LABEL if count > 1 else "regression")
    if kind != problem_type:
        raise InputError(f"{folder}/config.json: a head for {kind} is not supported, only for {problem_type}")
    names = config.get("id2label")
    if names is None:
        return tuple(f"LABEL_{index}" for index in range(count))
    if not isinstance(names, Mapping):
        raise InputError(f"{folder}/config.json: id2label must map numbers to names, not be {names!r}")
    if {str(key) for key in names} != set(map(str, range(count))):
        raise InputError(
            f"{folder}/config.json: id2label names {', '.join(map(str, names)) or 'nothing'}, but the weights have "
            f"{count} classes, from 0; name each of them"
        )
    return tuple(str(names.get(str(index), names.get(index))) for index in range(count))


def stacked(prefix: str, projections: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """State entries of projections by name: weight (out, in) and, where given, bias (out) of the only loop."""
    state = {}
    for name, (weight, bias) in projections.items():
        state[f"{prefix}.{name}.weight"] = weight
        if bias is not None:
            state[f"{prefix}.{name}.bias.0"] = bias
    return state
