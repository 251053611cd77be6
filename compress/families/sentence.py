"""What sentence-transformers puts behind a text model, by the files of its folder."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.purpose import Purpose
from compress.families.weights import read_weights
from compress.json_files import read_list, read_object
from compress.model.activations import ActivationName
from compress.model.heads.embedding import DenseSpec, EmbeddingSpec
from compress.model.pooling import Pool
from targets.errors import InputError

MODULES = "modules.json"
#: The pooling modes that there is a pool for.
_POOLS: dict[str, Pool] = {
    "cls": "cls",
    "mean": "mean",
    "mean_sqrt_len": "mean-sqrt",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
    "max": "max",
}
#: The last name of a class of torch -> the activation.
_ACTIVATIONS: dict[str, ActivationName | None] = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module, [] for a model that is not of sentence-transformers. Raises InputError."""
    file = folder / MODULES
    if not file.is_file():
        return []
    modules = read_list(file)
    for module in modules:
        if not isinstance(module, dict) or not isinstance(module.get("path", ""), str):
            raise InputError(f"{file}: a module must be an object with type and path, not {module!r}")
    return [(str(one.get("type", "")).rsplit(".", 1)[-1], folder / Path(one.get("path", "")).name) for one in modules]


def is_sparse(folder: Path) -> bool:
    """Whether a folder is of a sparse encoder, whose vectors are as wide as the vocabulary."""
    return any(kind == "MLMTransformer" for kind, _ in modules_of(folder))


def sentence_head(checkpoint: Checkpoint) -> tuple[EmbeddingSpec, dict[str, Tensor]]:
    """Pooling, dense maps and normalization, and the weights of the maps; without modules the mean, as that library
    does. Raises InputError for modules that do something else."""
    pool: Pool = "mean"
    dense: list[DenseSpec] = []
    state: dict[str, Tensor] = {}
    normalize = False
    for kind, folder in modules_of(checkpoint.folder):
        if normalize and kind in ("Pooling", "Dense"):
            raise InputError(f"{checkpoint.folder / MODULES}: a {kind} module behind Normalize is not supported")
        if kind == "Pooling":
            pool = _pool(folder / "config.json")
        elif kind == "Dense":
            spec, weights = _dense(folder, checkpoint.purpose)
            state |= {f"head.dense.{len(dense)}.{name}": tensor for name, tensor in weights.items()}
            dense.append(spec)
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            known = "Transformer, Pooling, Dense and Normalize"
            raise InputError(f"{checkpoint.folder / MODULES}: a {kind!r} module is not supported, only {known}")
    return EmbeddingSpec(pool=pool, dense=tuple(dense), normalize=normalize), state


def _pool(file: Path) -> Pool:
    config = read_object(file)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [name for name, on in config.items() if on is True]
    names = [name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for name in modes]
    names = [name for name in names if name != "include_prompt"]
    if len(names) != 1 or names[0] not in _POOLS:
        raise InputError(f"{file}: pooling {', '.join(names) or 'unknown'} is not supported, only {', '.join(_POOLS)}")
    return _POOLS[names[0]]


def _dense(folder: Path, purpose: Purpose) -> tuple[DenseSpec, dict[str, Tensor]]:
    """A map and its weights. Raises InputError."""
    config = read_object(folder / "config.json")
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if named not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise InputError(f"{folder}/config.json: activation_function {named} is not supported, only {known}")
    checkpoint = Checkpoint(folder, config, read_weights(folder, config, _silent), {}, purpose)
    weight_OI, bias_O = checkpoint.linear("linear")
    spec = DenseSpec(size=len(weight_OI), activation=_ACTIVATIONS[named], bias=bias_O is not None)
    return spec, {"weight": weight_OI, **({} if bias_O is None else {"bias.0": bias_O})}


def _silent(line: str) -> None:
    pass
