"""What the families of encoder-decoders share: two stacks, their token tables, and cross-attention.

D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import stacked
from compress.families.text import head_dim_of, layer_of, next_token_head, prefix_of, structure_of, task_of
from compress.model.block import BlockSpec
from compress.model.crosses.softmax import SoftmaxCrossSpec
from compress.model.embeds.token import TokenEmbedSpec, waves_of
from compress.model.ffns.mlp import MlpSpec
from compress.model.head import HeadSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.heads.tokens import TokensSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure

#: What BART and the families made after it call the parts of a layer.
NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
    "mixer_norm": "self_attn_layer_norm",
    "ffn_norm": "final_layer_norm",
}
CROSS = {
    "query": "encoder_attn.q_proj",
    "key": "encoder_attn.k_proj",
    "value": "encoder_attn.v_proj",
    "output": "encoder_attn.out_proj",
    "norm": "encoder_attn_layer_norm",
}


def token_tables(checkpoint: Checkpoint, body: str) -> tuple[str, str]:
    """Names of the encoder's and of the decoder's token table. Where they are one, saved models hold it under any of
    three names."""
    names = [
        f"{body}{name}" for name in ("encoder.embed_tokens.weight", "shared.weight", "decoder.embed_tokens.weight")
    ]
    held = [name for name in names if name in checkpoint]
    checkpoint.used.update(held)
    return (held or names)[0], (held or names)[-1]


def cross_of(checkpoint: Checkpoint, source: str, target: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """State entries of the cross-attention of the block `target`, from a layer whose names start with `source`."""
    linear = {part: checkpoint.linear(f"{source}{names[part]}") for part in ("query", "key", "value", "output")}
    return {
        **stacked(f"{target}cross.scores", {part: linear[part] for part in ("query", "key")}),
        **stacked(f"{target}cross.values", {part: linear[part] for part in ("value", "output")}),
        **checkpoint.norm(f"{source}{names['norm']}", f"{target}cross_norm"),
    }


def cross_spec(state: dict[str, Tensor], name: str, **sizes: Any) -> SoftmaxCrossSpec:
    """The cross-attention whose weights stand in `state` under `name`; `sizes`: see `attention_of`."""
    found = attention_of(state, name, causal=False, **sizes)
    return SoftmaxCrossSpec.model_validate({"scores": found.scores, "values": found.values})


def scores_head(checkpoint: Checkpoint, vocab_size: int, table: str) -> tuple[HeadSpec, dict[str, Tensor]]:
    """The head, with the biases of its scores where they are not all zero."""
    head, state = next_token_head(checkpoint, vocab_size, table, tied=True, output="lm_head")
    assert isinstance(head, LanguageModelSpec)
    if "final_logits_bias" not in checkpoint:
        return head, state
    bias_V = checkpoint.tensor("final_logits_bias").flatten()
    if not bool(bias_V.any()):
        return head, state
    name = "head.bias_V" if head.tied else "head.output.bias.0"
    return head.replace(bias=True), {**state, name: bias_V + state.get(name, 0.0)}


def joined(
    checkpoint: Checkpoint,
    *,
    decoder: Mapping[str, Any],
    encoder: Mapping[str, Any],
    task: str,
    head: HeadSpec,
    state: dict[str, Tensor],
    tables: tuple[str, str],
    follows: int | None = None,
) -> tuple[Structure, dict[str, Tensor]]:
    """The model of two stacks (fields of their structures) and its weights, those of the encoder under `encoder.`; a
    table that both read is the decoder's."""
    mine, theirs = checkpoint.tensor(tables[1]), checkpoint.tensor(tables[0])
    state = {**state, "embed.table": mine}
    embed = encoder["embed"]
    if tables[0] == tables[1] or torch.equal(mine, theirs):
        embed = embed.replace(borrowed=True)
    else:
        state["encoder.embed.table"] = theirs
    blocks = encoder["blocks"]
    source = Structure(
        **{**encoder, "embed": embed},
        task=task,
        head=TokensSpec(),
        labels=(),
        preprocessing=checkpoint.preprocessing,
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
    )
    return structure_of(checkpoint, task=task, head=head, encoder=source, follows=follows, **decoder), state


def read_like_bart(
    checkpoint: Checkpoint,
    *,
    pre_norm: bool,
    embed_norm: bool,
    embed: Mapping[str, Any],
    learned_from: int | None = None,
    classes: bool = False,
) -> tuple[Structure, dict[str, Tensor]]:
    """A model with BART's names. `pre_norm`: norms stand before the halves and behind the last block; `embed_norm`: one
    stands behind the embedding; `embed`: fields of both embeddings; `learned_from`: the row of the first place in the
    tables of positions, where these are learned; `classes`: it may have a classifier, which reads the last token of a
    decoder that follows its source."""
    integer, body = checkpoint.integer, prefix_of(checkpoint, "model")
    width, vocabulary, norm = integer("d_model"), integer("vocab_size"), NormSpec(eps=1e-5)
    tables = token_tables(checkpoint, body)
    task, kind = task_of(checkpoint, "target-token", *(("classes", "score") if classes else ()))
    follows = None if kind == "target-token" else integer("decoder_start_token_id", 2, least=0)
    head, state = scores_head(checkpoint, vocabulary, tables[1]) if follows is None else _classifier(checkpoint)
    scale = width**0.5 if checkpoint.flag("scale_embedding", False) else 1.0
    stacks: dict[str, dict[str, Any]] = {}
    for side, prefix in (("encoder", "encoder."), ("decoder", "")):
        source = f"{body}{side}."
        waves = embed.get("waves")
        positions = f"{source}embed_positions.weight"
        if learned_from is not None:
            state[f"{prefix}embed.position"] = checkpoint.tensor(positions)[learned_from:]
        elif positions in checkpoint and not _are_waves(checkpoint.tensor(positions)):
            waves, state[f"{prefix}embed.position"] = None, checkpoint.tensor(positions)
        if embed_norm:
            state |= checkpoint.norm(f"{source}layernorm_embedding", f"{prefix}embed.norm")
        if pre_norm:
            state |= checkpoint.norm(f"{source}layer_norm", f"{prefix}final_norm")
        layers = range(integer(f"{side}_layers"))
        for index in layers:
            state |= _layer(checkpoint, f"{source}layers.{index}.", f"{prefix}blocks.{index}.", side)
        stacks[side] = {
            "hidden_size": width,
            "embed": TokenEmbedSpec(
                vocab_size=vocabulary,
                max_positions=integer("max_position_embeddings") + embed.get("offset", 0),
                scale=scale,
                norm=norm if embed_norm else None,
                **{**embed, "waves": waves},
            ),
            "blocks": tuple(_block(checkpoint, state, f"{prefix}blocks.{index}", side, pre_norm) for index in layers),
            "final_norm": norm if pre_norm else None,
        }
    return joined(
        checkpoint,
        decoder=stacks["decoder"],
        encoder=stacks["encoder"],
        task=task,
        head=head,
        state=state,
        tables=tables,
        follows=follows,
    )


def _classifier(checkpoint: Checkpoint) -> tuple[HeadSpec, dict[str, Tensor]]:
    """Of the token that ends the text."""
    maps = {"hidden": checkpoint.linear("classification_head.dense")}
    maps["output"] = checkpoint.linear("classification_head.out_proj")
    return ClassifierSpec(num_labels=len(maps["output"][0]), pools=("last",), hidden="tanh"), stacked("head", maps)


def _are_waves(rows_NE: Tensor) -> bool:
    """Whether a saved table of positions holds what is computed anyway; some are trained on."""
    return torch.allclose(rows_NE, waves_of(rows_NE.shape[0], rows_NE.shape[1], "even"), atol=1e-3)


def _layer(checkpoint: Checkpoint, source: str, target: str, side: str) -> dict[str, Tensor]:
    state = layer_of(checkpoint, source, target, NAMES)
    return state if side == "encoder" else state | cross_of(checkpoint, source, target, CROSS)


def _block(checkpoint: Checkpoint, state: dict[str, Tensor], name: str, side: str, pre_norm: bool) -> BlockSpec:
    heads, norm = checkpoint.integer(f"{side}_attention_heads"), NormSpec(eps=1e-5)
    sizes: dict[str, Any] = {"heads": heads, "head_dim": head_dim_of(checkpoint, checkpoint.integer("d_model"), heads)}
    crosses = side == "decoder"
    return BlockSpec(
        mixer=attention_of(state, f"{name}.mixer", causal=crosses, **sizes),
        mixer_norm=norm,
        ffn=MlpSpec(
            intermediate_size=checkpoint.integer(f"{side}_ffn_dim"),
            activation=checkpoint.option("activation_function", "gelu"),
        ),
        ffn_norm=norm,
        residual="pre" if pre_norm else "post",
        cross=cross_spec(state, f"{name}.cross", **sizes) if crosses else None,
        cross_norm=norm if crosses else None,
    )
