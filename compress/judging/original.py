"""A checkpoint run by transformers itself, so that a reference owes nothing to edgepress."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.classes import listed
from targets.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    from compress.model import Transformer


def knows(path: Path) -> bool:
    """Is transformers installed, and does it know the architecture of this folder?"""
    if importlib.util.find_spec("transformers") is None:
        return False
    from transformers import CONFIG_MAPPING

    return json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") in CONFIG_MAPPING


def reading() -> dict[str, Any]:
    """How transformers reads a folder: in fp32, without remote code, and by the attention that its class spells out.

    Some releases give Gemma 2 the fused attention, which leaves out its soft caps.
    """
    import torch

    settings = {"local_files_only": True, "trust_remote_code": False, "output_loading_info": True}
    return {**settings, "dtype": torch.float32, "attn_implementation": "eager"}


def load_original(name: str, path: Path, auto_class: str) -> Any:
    """The model in fp32, ready to answer. `auto_class`: a class of transformers, such as AutoModelForCausalLM.

    Raises InputError for a folder that it cannot read, or that lacks some of the weights, EnvironmentLacks where it
    needs a package for it (a quantizer's) that is not installed.
    """
    import transformers
    from transformers.utils import logging

    quiet: Any = logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(path, **reading())
    except ImportError as error:
        raise EnvironmentLacks(f"{name}: transformers needs another package to read it: {_first(error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # transformers and its libraries have classes of their own: the folder is odd or damaged
        raise InputError(f"{name} cannot be read as {auto_class}: {_first(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{name} lacks weights that {auto_class} needs: {listed(missing)}")
    return model.eval()


def resized(original: Any, model: Transformer, config: Mapping[str, Any]) -> dict[str, bool]:
    """What images of another size than the model was trained on need."""
    from compress.model.embeds.patch import PatchEmbedSpec

    embed, trained = model.structure.embed, config.get("image_size")
    if not isinstance(embed, PatchEmbedSpec) or list(embed.image_size) in (trained, [trained, trained]):
        return {}
    known = inspect.signature(original.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}


def answered(name: str, model: Any, inputs: Mapping[str, Any]) -> Any:
    """What the model gives, by name. Raises InputError for inputs that it does not take, such as images of a size
    that its preprocessing gives and its config does not have."""
    import torch

    try:
        with torch.inference_mode():
            return model(**inputs)
    except MemoryError:
        raise
    except Exception as error:  # of transformers and of torch: the folder's files do not fit together
        raise InputError(
            f"{name}: {type(model).__name__} does not take what its folder prepares: {_first(error)}"
        ) from error


def _first(error: Exception) -> str:
    """The first line of what an error says, with the next one where it ends in a colon; its kind if it says nothing."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return (f"{first} {others[0]}" if others and first.endswith(":") else first)[:160]


def count_parameters(model: Any) -> int:
    """Parameters of the model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
