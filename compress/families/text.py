"""What the families of text models share: which task a checkpoint is for, its head, and the usual blocks.

D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress.families.each_token import USUAL, TokenHead, each_token_head
from compress.families.family import Checkpoint, labels_of, stacked
from compress.families.masked import MaskedHead, masked_head
from compress.families.sentence import is_sparse, sentence_head
from compress.families.splade import splade_head
from compress.model.activations import ActivationName
from compress.model.bias import BiasSpec
from compress.model.block import BlockSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.head import HeadSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.heads.token_classifier import TokenClassifierSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Step, Structure
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError


def prefix_of(checkpoint: Checkpoint, name: str) -> str:
    """What the names of the body's tensors start with: `name` and a point, or nothing where it was saved bare."""
    return f"{name}." if any(tensor.startswith(f"{name}.") for tensor in checkpoint.tensors) else ""


def refuse(checkpoint: Checkpoint, **wanted: Any) -> None:
    """Raises InputError if the config asks for something else than these values; a missing key asks for nothing."""
    for name, value in wanted.items():
        given = checkpoint.config.get(name)
        if given is not None and given != value:
            raise InputError(f"{checkpoint.folder}/config.json: {name} = {given!r} is not supported, only {value!r}")


def head_dim_of(checkpoint: Checkpoint, width: int, heads: int) -> int:
    """Size of a head. Raises InputError if the width does not divide into the heads."""
    if width % heads:
        raise InputError(f"{checkpoint.folder}/config.json: hidden size {width} is not a multiple of {heads} heads")
    return width // heads


def plain_block(
    checkpoint: Checkpoint,
    *,
    width: int,
    heads: int,
    intermediate_size: int,
    activation: ActivationName,
    norm: NormSpec,
    loops: int = 1,
    bias: BiasSpec | None = None,
) -> BlockSpec:
    """The encoder block of BERT: attention and a two-layer feed-forward, all with biases, each followed by a norm."""
    head_dim = head_dim_of(checkpoint, width, heads)
    scores = ProjectedScoresSpec(num_heads=heads, num_kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5)
    values = ProjectedValuesSpec(num_kv_heads=heads, head_dim=head_dim)
    return BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=values, bias=bias),
        mixer_norm=norm,
        ffn=MlpSpec(intermediate_size=intermediate_size, activation=activation),
        ffn_norm=norm,
        residual="post",
        loops=loops,
    )


def bert_embedding(checkpoint: Checkpoint, source: str) -> dict[str, Tensor]:
    """State entries of an embedding that has the names of BERT, with positions and token types where it has them."""
    state = {
        "embed.table": checkpoint.tensor(f"{source}word_embeddings.weight"),
        **checkpoint.norm(f"{source}LayerNorm", "embed.norm"),
    }
    for name in ("position", "token_type"):
        if f"{source}{name}_embeddings.weight" in checkpoint.tensors:
            state[f"embed.{name}"] = checkpoint.tensor(f"{source}{name}_embeddings.weight")
    return state


def layer_of(checkpoint: Checkpoint, source: str, target: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """State entries of the block `target` from a layer whose names start with `source`. `names`: what the checkpoint
    calls its maps (query, key, value, output, up, down and, where it is gated, gate) and its norms (mixer_norm,
    ffn_norm)."""
    parts = {"mixer.scores": ("query", "key"), "mixer.values": ("value", "output"), "ffn": ("gate", "up", "down")}
    state: dict[str, Tensor] = {}
    for part, maps in parts.items():
        linear = {name: checkpoint.linear(f"{source}{names[name]}") for name in maps if name in names}
        state |= stacked(f"{target}{part}", linear)
    for norm in ("mixer_norm", "ffn_norm"):
        state |= checkpoint.norm(f"{source}{names[norm]}", f"{target}{norm}")
    return state


def encoder_head(
    checkpoint: Checkpoint,
    hidden: str | None,
    activation: ActivationName,
    output: str,
    pool: Pool = "cls",
    norm: tuple[str, NormSpec] | None = None,
    masked: MaskedHead | None = None,
    tokens: Mapping[str, TokenHead] | None = None,
) -> tuple[str, HeadSpec, dict[str, Tensor]]:
    """Task and head of an encoder. `hidden`, if any, and `output`: the maps of its classifier, which reads `pool`;
    `norm`: name and kind of a norm between them; `masked`: where the head of a masked language model is kept;
    `tokens`: where heads of tokens are kept that are not where most families have them."""
    each = {**USUAL, **(tokens or {})}
    task, kind = task_of(checkpoint, "classes", "score", "vector", *each, *(["masked-token"] if masked else []))
    if kind == "masked-token" and masked is not None:
        return task, *masked_head(checkpoint, masked)
    if kind == "vector" and is_sparse(checkpoint.folder):
        return task, *splade_head(checkpoint, masked)
    if kind == "vector":
        return task, *sentence_head(checkpoint)
    if kind in each:
        return task, *each_token_head(checkpoint, kind, each[kind])
    maps = {} if hidden is None else {"hidden": checkpoint.linear(hidden)}
    state = stacked("head", {**maps, "output": checkpoint.linear(output)})
    spec = ClassifierSpec(
        num_labels=len(state["head.output.weight"]),
        pools=(pool,),
        hidden=None if hidden is None else activation,
        hidden_bias=hidden is None or "head.hidden.bias.0" in state,
        hidden_norm=None if norm is None else norm[1],
    )
    return task, spec, state if norm is None else state | checkpoint.norm(norm[0], "head.hidden_norm")


def decoder_head(
    checkpoint: Checkpoint, vocab_size: int, table: str, *, tied: bool, output: str = "lm_head"
) -> tuple[str, HeadSpec, dict[str, Tensor]]:
    """Task and head of a decoder: scores of the next token, a classifier or a number on the last token, or an
    embedding. `table`: name of the token table; `tied`: what the family takes `tie_word_embeddings` for where the
    config does not say; `output`: name of the map to the scores, where it is not tied.
    Raises InputError where config and weights disagree about a tied head, which versions of transformers read
    differently."""
    each = {"token-classes": TokenHead("score" if "score.weight" in checkpoint else "classifier")}
    task, kind = task_of(checkpoint, "next-token", "classes", "score", "vector", *each)
    if kind in each:
        return task, *each_token_head(checkpoint, kind, each[kind])
    if kind == "vector":
        return task, *sentence_head(checkpoint)
    if kind in ("classes", "score"):
        weight_OD, bias_O = checkpoint.linear("score")
        spec = ClassifierSpec(num_labels=len(weight_OD), pools=("last",), bias=bias_O is not None)
        return task, spec, stacked("head", {"output": (weight_OD, bias_O)})
    return task, *next_token_head(checkpoint, vocab_size, table, tied=tied, output=output)


def next_token_head(
    checkpoint: Checkpoint, vocab_size: int, table: str, *, tied: bool, output: str
) -> tuple[HeadSpec, dict[str, Tensor]]:
    """Scores of the next token; the arguments and the errors are those of `decoder_head`."""
    if checkpoint.config.get("tie_word_embeddings", tied):
        own = f"{output}.weight"
        if own in checkpoint.tensors and not torch.equal(checkpoint.tensor(own), checkpoint.tensor(table)):
            raise InputError(
                f"{checkpoint.folder}: config.json ties the head to {table}, but the weights hold another {own}; "
                "set tie_word_embeddings to false to use it, or remove it"
            )
        return LanguageModelSpec(vocab_size=vocab_size), {}
    weight_VD, bias_V = checkpoint.linear(output)
    head = LanguageModelSpec(vocab_size=vocab_size, tied=False, bias=bias_V is not None)
    return head, stacked("head", {"output": (weight_VD, bias_V)})


def structure_of(
    checkpoint: Checkpoint,
    *,
    task: str,
    head: HeadSpec,
    schedule: tuple[Step, ...] | None = None,
    **parts: Any,
) -> Structure:
    """The structure of a text model; without a schedule its blocks run in their order."""
    blocks = parts["blocks"]
    labels: tuple[str, ...] = ()
    if isinstance(head, ClassifierSpec | TokenClassifierSpec):
        labels = labels_of(checkpoint, head.num_labels, checkpoint.purpose.problem_type)
    return Structure(
        task=task,
        head=head,
        labels=labels,
        schedule=schedule or tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        preprocessing=checkpoint.preprocessing,
        **parts,
    )


def task_of(checkpoint: Checkpoint, *heads: str) -> tuple[str, str]:
    """Name and head of the task that the checkpoint is for. Raises InputError for a head that the family has not."""
    purpose = checkpoint.purpose
    if purpose.head not in heads:
        classes = checkpoint.config.get("architectures")
        names = ", ".join(task for task, head in purpose.heads.items() if head in heads)
        raise InputError(
            f"{checkpoint.folder}/config.json: architectures {classes!r} is not supported for this family, only "
            f"classes for {names}"
        )
    return purpose.task, purpose.head
