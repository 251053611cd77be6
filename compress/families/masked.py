"""The heads of masked language models: where each family keeps them, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.families.family import Checkpoint, stacked
from compress.model.activations import ActivationName
from compress.model.heads.masked_language_model import MaskedLanguageModelSpec
from compress.model.norms import NormSpec
from targets.errors import InputError


@dataclass(frozen=True)
class MaskedHead:
    """Names of the tensors: a map, a norm, the map to the scores, and where the bias of the scores is kept apart from
    it (`bias`). `table`: the token table that the scores are tied to."""

    table: str
    dense: str
    norm: str
    output: str
    norm_spec: NormSpec
    activation: ActivationName = "gelu"
    bias: str | None = None


def bert_masked_head(
    table: str, norm: NormSpec, activation: ActivationName, norm_name: str = "LayerNorm"
) -> MaskedHead:
    """Where BERT keeps it, and what took its names."""
    return MaskedHead(
        table=table,
        dense="cls.predictions.transform.dense",
        norm=f"cls.predictions.transform.{norm_name}",
        norm_spec=norm,
        output="cls.predictions.decoder",
        bias="cls.predictions.bias",
        activation=activation,
    )


def masked_head(checkpoint: Checkpoint, names: MaskedHead) -> tuple[MaskedLanguageModelSpec, dict[str, Tensor]]:
    """Raises InputError where config and weights disagree about a tied head, and for weights that lack it."""
    dense = checkpoint.linear(names.dense)
    state = {**stacked("head", {"dense": dense}), **checkpoint.norm(names.norm, "head.norm")}
    tied, own = checkpoint.flag("tie_word_embeddings", True), f"{names.output}.weight"
    table_VE, bias_V = checkpoint.matrix(names.table), _bias(checkpoint, names, tied)
    if not tied:
        state |= stacked("head", {"output": (checkpoint.matrix(own), bias_V)})
    elif own in checkpoint.tensors and not torch.equal(checkpoint.tensor(own), table_VE):
        raise InputError(
            f"{checkpoint.folder}: config.json ties the head to {names.table}, but the weights hold another {own}; "
            "set tie_word_embeddings to false to use it, or remove it"
        )
    elif bias_V is not None:
        state["head.bias_V"] = bias_V
    spec = MaskedLanguageModelSpec(
        vocab_size=len(table_VE),
        width=len(dense[0]),
        activation=names.activation,
        norm=names.norm_spec,
        dense_bias=dense[1] is not None,
        tied=tied,
        bias=bias_V is not None,
    )
    return spec, state


def _bias(checkpoint: Checkpoint, names: MaskedHead, tied: bool) -> Tensor | None:
    """Of the scores. The original computes with that of the map, which a tied head takes from the one kept apart."""
    order = (names.bias, f"{names.output}.bias") if tied else (f"{names.output}.bias", names.bias)
    found = [checkpoint.tensor(name) for name in order if name is not None and name in checkpoint]
    return found[0] if found else None
