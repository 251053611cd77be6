"""Sparse encoders of sentence-transformers (SPLADE): a masked language model whose scores are pooled."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.masked import MaskedHead, masked_head
from compress.families.sentence import MODULES, modules_of
from compress.json_files import read_object
from compress.model.heads.splade import SpladeSpec
from targets.errors import InputError


def splade_head(checkpoint: Checkpoint, names: MaskedHead | None) -> tuple[SpladeSpec, dict[str, Tensor]]:
    """The largest of log(1 + relu(scores)). Raises InputError for another pooling, and for a family of which no masked
    language model is read."""
    kinds = [kind for kind, _ in modules_of(checkpoint.folder)]
    if names is None or kinds != ["MLMTransformer", "SpladePooling"]:
        raise InputError(
            f"{checkpoint.folder / MODULES}: the modules {', '.join(kinds)} are not supported for this family; only "
            "MLMTransformer and SpladePooling, of families whose masked language models are read"
        )
    file = modules_of(checkpoint.folder)[1][1] / "config.json"
    config = read_object(file)
    for key, wanted in (("pooling_strategy", "max"), ("activation_function", "relu")):
        if config.get(key, wanted) != wanted:
            raise InputError(f"{file}: {key} = {config[key]!r} is not supported, only {wanted!r}")
    head, state = masked_head(checkpoint, names)
    return SpladeSpec.model_validate(head.model_dump(exclude={"kind"})), state
