"""T5 and mT5, whole or the encoder on its own (sentence-T5, GTR): RMS norms, scores that are not scaled, biases of
distances that all layers of a stack share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.encoder_decoder import cross_of, cross_spec, joined, token_tables
from compress.families.family import reads, stacked
from compress.families.text import encoder_head, layer_of, structure_of, task_of
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure
from targets.errors import InputError

_ATTENTION = {
    "query": "0.SelfAttention.q",
    "key": "0.SelfAttention.k",
    "value": "0.SelfAttention.v",
    "output": "0.SelfAttention.o",
    "mixer_norm": "0.layer_norm",
}
_CROSS = {
    "query": "1.EncDecAttention.q",
    "key": "1.EncDecAttention.k",
    "value": "1.EncDecAttention.v",
    "output": "1.EncDecAttention.o",
    "norm": "1.layer_norm",
}


@reads("t5", "mt5", classes=("t5encoder", "mt5encoder"))
def read_t5(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The tables of biases, which the first layer of a stack holds, are copied to every layer of it."""
    classes = checkpoint.config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    if name.endswith("EncoderModel"):
        return _read_encoder(checkpoint)
    if name.endswith("ForConditionalGeneration"):
        return _read_both(checkpoint)
    raise InputError(
        f"{checkpoint.folder}/config.json: architectures {classes!r} is not supported, only "
        "...ForConditionalGeneration and ...EncoderModel; save the encoder alone with T5EncoderModel"
    )


def _read_encoder(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    task, head, state = encoder_head(checkpoint, "classification_head.dense", "tanh", "classification_head.out_proj")
    fields = _stack(checkpoint, state, "encoder", "")
    state["embed.table"] = checkpoint.tensor(token_tables(checkpoint, "")[0])
    return structure_of(checkpoint, task=task, head=head, **fields), state


def _read_both(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    task, _ = task_of(checkpoint, "target-token")
    state: dict[str, Tensor] = {}
    decoder, encoder = _stack(checkpoint, state, "decoder", ""), _stack(checkpoint, state, "encoder", "encoder.")
    tables = token_tables(checkpoint, "")
    own = _own_scores(checkpoint, tables[1])
    if own is not None:
        state |= stacked("head", {"output": (own, None)})
    tied = checkpoint.config.get("tie_word_embeddings") is not False
    if checkpoint.config["model_type"] == "t5" and checkpoint.option("scale_decoder_outputs", tied):
        # What the tied head reads is scaled: the gains of the norm in front of it take that in.
        state["final_norm.weight.0"] = state["final_norm.weight.0"] * checkpoint.integer("d_model") ** -0.5
    head = LanguageModelSpec(vocab_size=checkpoint.integer("vocab_size"), tied=own is None)
    return joined(checkpoint, decoder=decoder, encoder=encoder, task=task, head=head, state=state, tables=tables)


def _own_scores(checkpoint: Checkpoint, table: str) -> Tensor | None:
    """The map to the scores where it is not the token table, whatever the config says of it: T5 1.1 has one of its own,
    and saved configs call it tied."""
    if "lm_head.weight" not in checkpoint:
        return None
    weight_VD = checkpoint.tensor("lm_head.weight")
    return None if torch.equal(weight_VD, checkpoint.tensor(table)) else weight_VD


def _stack(checkpoint: Checkpoint, state: dict[str, Tensor], side: str, prefix: str) -> dict[str, Any]:
    """The fields of one stack's structure; its weights are put into `state`."""
    integer, crosses = checkpoint.integer, side == "decoder"
    layers, heads = integer("num_layers"), integer("num_heads")
    if crosses:
        layers = integer("num_decoder_layers", layers)
    norm, first = NormSpec(kind="rms", eps=checkpoint.number("layer_norm_epsilon", 1e-6)), f"{side}.block.0.layer.0."
    bias = BucketBiasSpec(
        buckets=integer("relative_attention_num_buckets", 32),
        max_distance=integer("relative_attention_max_distance", 128),
        both_ways=not crosses,
    )
    table = checkpoint.tensor(f"{first}SelfAttention.relative_attention_bias.weight", (bias.buckets, heads))
    state |= checkpoint.norm(f"{side}.final_layer_norm", f"{prefix}final_norm")
    sizes: dict[str, Any] = {"heads": heads, "head_dim": integer("d_kv"), "scale": 1.0}
    blocks = []
    for index in range(layers):
        name = f"{prefix}blocks.{index}"
        state |= _layer(checkpoint, f"{side}.block.{index}.layer.", f"{name}.", crosses)
        state[f"{name}.mixer.bias.table"] = table.clone()
        blocks.append(
            BlockSpec(
                mixer=attention_of(state, f"{name}.mixer", causal=crosses, **sizes).replace(bias=bias),
                mixer_norm=norm,
                ffn=_ffn(checkpoint, integer("d_ff")),
                ffn_norm=norm,
                cross=cross_spec(state, f"{name}.cross", **sizes) if crosses else None,
                cross_norm=norm if crosses else None,
            )
        )
    return {
        "hidden_size": integer("d_model"),
        "embed": TokenEmbedSpec(vocab_size=integer("vocab_size")),
        "blocks": tuple(blocks),
        "final_norm": norm,
    }


def _ffn(checkpoint: Checkpoint, size: int) -> FfnSpec:
    gated, _, activation = str(checkpoint.option("feed_forward_proj", "relu")).rpartition("-")
    if gated and activation == "gelu":
        activation = "gelu_new"  # what the configs of T5 1.1 mean
    if gated:
        return GatedMlpSpec.model_validate({"intermediate_size": size, "activation": activation})
    return MlpSpec.model_validate({"intermediate_size": size, "activation": activation, "bias": False})


def _layer(checkpoint: Checkpoint, source: str, target: str, crosses: bool) -> dict[str, Tensor]:
    place = 2 if crosses else 1
    dense = f"{place}.DenseReluDense."
    names = {**_ATTENTION, "up": f"{dense}wi", "down": f"{dense}wo", "ffn_norm": f"{place}.layer_norm"}
    if f"{source}{dense}wi_0.weight" in checkpoint:
        names |= {"gate": f"{dense}wi_0", "up": f"{dense}wi_1"}
    state = layer_of(checkpoint, source, target, names)
    return state | cross_of(checkpoint, source, target, _CROSS) if crosses else state
