"""Folders of LoRA adapters, as peft saves them: merged once into their base, as a folder of the usual form.

The merged map is W + s B A with s = alpha / r, or alpha / sqrt(r) where `use_rslora` says so (Hu et al. 2021, arXiv
2106.09685; Kalajdzievski 2023, arXiv 2312.03732). O outputs, I inputs, R rank.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import read_object
from compress.pipeline.digest.tree import digest_tree
from compress.zoo.hub_cache import snapshot_of
from compress.zoo.wheels import converted
from runtime.files import cache_root, user_path, write_atomic
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
WEIGHTS, PARTS = "model.safetensors", "model.safetensors.index.json"
#: What an adapter may ask for that a sum of two maps does not give.
_MORE = ("use_dora", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "target_parameters")
#: Beginnings that change the base as well, so that the one of the hub is not what the adapter was trained on.
_OTHER_BASES = ("pissa", "olora", "corda", "loftq")
#: Files beside the weights, of which the adapter's own win; and how heads for labels are called.
_BESIDE, _HEADS = (".json", ".txt", ".model", ".jinja"), ("score.weight", "classifier.weight")
_KINDS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}


def usual_form(folder: Path) -> Path:
    """The folder itself, or for an adapter its base with the adapter merged in. Raises InputError for an adapter whose
    base is not on this machine, or that is more than low-rank maps."""
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return folder
    config = read_object(folder / CONFIG)
    _check(folder, config)
    base, memo = _base_of(folder, config), cache_root() / "digests.json"
    digests = digest_tree(folder, memo)[:12], digest_tree(base, memo)[:12]
    return converted(f"lora-{'-'.join(digests)}", lambda made: _write(folder, config, base, made))


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    kind, start = config.get("peft_type"), str(config.get("init_lora_weights")).lower()
    if kind != "LORA":
        raise InputError(f"{folder / CONFIG}: adapters of the kind {kind!r} are not read, only 'LORA'")
    more = next((name for name in _MORE if config.get(name)), None)
    if more is None and start.startswith(_OTHER_BASES):
        more = "init_lora_weights"
    if more is not None:
        raise InputError(
            f"{folder / CONFIG}: {more} = {config[more]!r} is not read; merge the adapter with peft "
            "(merge_and_unload), save the model, and give that"
        )


def _base_of(folder: Path, config: Mapping[str, Any]) -> Path:
    name = str(config.get("base_model_name_or_path") or "")
    for place in (folder / name, user_path(name)):
        if name and (place / "config.json").is_file():
            return place
    cached = snapshot_of(name) if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None
    if cached is not None:
        return cached
    raise InputError(
        f"{folder} is a LoRA adapter, and its base {name!r} is not on this machine; fetch it (hf download {name}), or "
        f"set base_model_name_or_path in {CONFIG} to its folder"
    )


def _write(folder: Path, config: Mapping[str, Any], base: Path, made: Path) -> None:
    from safetensors.torch import save

    if not (folder / ADAPTER).is_file():
        raise InputError(f"{folder / ADAPTER} is missing; save the adapter again (save_pretrained)")
    tensors, own = _tensors(base), _read(folder / ADAPTER)
    for source in (base, folder):
        for file in source.iterdir():
            if file.is_file() and file.suffix in _BESIDE and file.name not in (PARTS, CONFIG):
                shutil.copyfile(file, made / file.name)
    whole = read_object(base / "config.json")
    if whole.get("quantization_config"):
        raise InputError(f"{base} holds quantized weights, into which no adapter is merged; give its base in 16 bits")
    changed = _merged(folder, config, tensors, own)
    rows = next((len(tensor) for name, tensor in changed.items() if name.endswith(_HEADS)), 0)
    write_atomic(made / "config.json", (json.dumps(_config(whole, config, rows), indent=1) + "\n").encode())
    merged = {name: tensor.contiguous().clone() for name, tensor in sorted({**tensors, **changed}.items())}
    write_atomic(made / WEIGHTS, save(merged, metadata={"format": "pt"}))


def _config(whole: dict[str, Any], config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The base's config.json, for the head of `rows` rows that the adapter brings."""
    end, classes = _KINDS.get(str(config.get("task_type"))), whole.get("architectures")
    if end is None or not rows or not isinstance(classes, list) or not classes:
        return whole
    stem = re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", str(classes[0]))
    labels = whole.get("id2label")
    if isinstance(labels, dict) and len(labels) == rows:
        return {**whole, "architectures": [f"{stem}{end}"]}
    names = {str(index): f"LABEL_{index}" for index in range(rows)}
    return {**whole, "architectures": [f"{stem}{end}"], "num_labels": rows, "id2label": names}


def _merged(
    folder: Path, config: Mapping[str, Any], base: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors that are not the base's. Raises InputError for one that has no place there."""
    changed: dict[str, Tensor] = {}
    for name, tensor in sorted(own.items()):
        path = name.removeprefix("base_model.model.")
        module, _, part = path.partition(".lora_")
        if not part:
            changed[_known(path, base) or path] = tensor.float()
            continue
        if part.startswith(("B", "embedding_B")):
            continue  # its A brings it
        other = own.get(name.replace(".lora_A", ".lora_B").replace(".lora_embedding_A", ".lora_embedding_B"))
        place = _known(f"{module}.weight", base)
        if other is None or place is None:
            lacks = "its other half" if other is None else "a map in the base"
            raise InputError(f"{folder / ADAPTER}: {name} lacks {lacks}; is the base the one that it was trained on?")
        change = _scale(config, module, len(tensor)) * (other.float() @ tensor.float())
        turned = change.T if part.startswith("embedding") or config.get("fan_in_fan_out") else change
        if turned.shape != base[place].shape:
            raise InputError(
                f"{folder / ADAPTER}: {name} changes a map of {list(turned.shape)}, but {place} of the base has "
                f"{list(base[place].shape)}"
            )
        changed[place] = base[place].float() + turned
    return changed


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha: float = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.){pattern}$", module):
            alpha = value
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _known(name: str, base: Mapping[str, Tensor]) -> str | None:
    """What the base calls a tensor: a body that was saved bare lacks the first part of the name, and one that is inside
    another model has one more."""
    same = [one for one in (name, name.partition(".")[2]) if one in base]
    longer = [one for one in base if one.endswith(f".{name}")]
    return same[0] if same else longer[0] if len(longer) == 1 else None


def _tensors(base: Path) -> dict[str, Tensor]:
    """The base's tensors, of one file or of its shards."""
    if (base / WEIGHTS).is_file() or not (base / PARTS).is_file():
        return _read(base / WEIGHTS)
    names = read_object(base / PARTS).get("weight_map")
    files = {Path(str(name)).name for name in names.values()} if isinstance(names, dict) else set()
    return {name: tensor for file in sorted(files) for name, tensor in _read(base / file).items()}


def _read(file: Path) -> dict[str, Tensor]:
    from compress.model.files import read_tensors

    return read_tensors(file)
