"""Folders of static embeddings (StaticEmbedding of sentence-transformers, model2vec): a table of words and a tokenizer,
written once as a folder of the usual form, which every other part of the house reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from compress.json_files import read_list, read_object
from compress.pipeline.digest.tree import digest_tree
from compress.zoo.wheels import converted
from runtime.files import write_atomic
from targets.errors import InputError

MODULES, WEIGHTS, TOKENIZER = "modules.json", "model.safetensors", "tokenizer.json"
#: What the table of words is called.
_TABLES = ("embedding.weight", "embeddings")
#: Words of a text at most: a table has no limit of its own.
_LONGEST = 1 << 19


def usual_form(folder: Path) -> Path:
    """The folder itself, or for static embeddings one of the usual form. Raises InputError."""
    modules = _modules(folder)
    if not modules or not str(modules[0].get("type", "")).endswith("StaticEmbedding"):
        return folder
    digest = digest_tree(folder)[:16]
    return converted(f"static-{digest}", lambda made: _write(folder, modules, made))


def _modules(folder: Path) -> list[dict[str, Any]]:
    file = folder / MODULES
    found = read_list(file) if file.is_file() else []
    return [one for one in found if isinstance(one, dict)] if all(isinstance(one, dict) for one in found) else []


def _write(folder: Path, modules: list[dict[str, Any]], made: Path) -> None:
    from safetensors.torch import save

    from compress.model.files import read_tensors

    inner = folder / Path(str(modules[0].get("path", ""))).name
    for name in (WEIGHTS, TOKENIZER):
        if not (inner / name).is_file():
            raise InputError(f"{inner / name} is missing; save the model again with sentence-transformers")
    tensors = read_tensors(inner / WEIGHTS)
    if len(tensors) != 1 or (name := next(iter(tensors))) not in _TABLES or tensors[name].ndim != 2:
        raise InputError(f"{inner / WEIGHTS} holds {', '.join(sorted(tensors)[:4])}; only a table {_TABLES[0]} is read")
    table_VD = tensors[name].float().contiguous()
    config = {
        "model_type": "static-embedding",
        "architectures": ["StaticEmbeddingModel"],
        "vocab_size": table_VD.shape[0],
        "hidden_size": table_VD.shape[1],
        "max_position_embeddings": _LONGEST,
    }
    # The original asks its tokenizer for neither special tokens nor padding nor a length.
    tokenizer = {**read_object(inner / TOKENIZER), "post_processor": None, "padding": None, "truncation": None}
    write_atomic(made / TOKENIZER, json.dumps(tokenizer, ensure_ascii=False).encode())
    write_atomic(made / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    write_atomic(made / WEIGHTS, save({_TABLES[0]: table_VD}, metadata={"format": "pt"}))
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    listed += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    for module in modules[1:]:
        path = Path(str(module.get("path", ""))).name
        if path and (folder / path).is_dir():
            shutil.copytree(folder / path, made / path)
        listed.append({**module, "idx": len(listed), "name": str(len(listed))})
    write_atomic(made / MODULES, (json.dumps(listed, indent=1) + "\n").encode())
    prompts = folder / "config_sentence_transformers.json"
    if prompts.is_file():
        shutil.copyfile(prompts, made / prompts.name)
