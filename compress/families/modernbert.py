"""ModernBERT: pre-norm blocks with rotary positions and gated feed-forwards, of which two of three see a window on both
sides, with a base of their own."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import FULL, SLIDING, attention_of, layer_types
from compress.families.each_token import TokenHead
from compress.families.family import reads, stacked
from compress.families.llama import split_rows
from compress.families.masked import MaskedHead
from compress.families.rope import rope_from, rope_table
from compress.families.text import encoder_head, head_dim_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.norms import NormSpec
from compress.model.rope import RopeSpec
from compress.model.structure import Structure
from targets.errors import InputError

_THETA = {FULL: ("global_rope_theta", 160000.0), SLIDING: ("local_rope_theta", 10000.0)}


@reads("modernbert")
def read_modernbert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The first layer has no norm before its attention: the embedding's serves."""
    body, integer = prefix_of(checkpoint, "model"), checkpoint.integer
    width, layers, heads = integer("hidden_size"), integer("num_hidden_layers"), integer("num_attention_heads")
    norm = NormSpec(eps=checkpoint.number("norm_eps", 1e-5), bias=checkpoint.flag("norm_bias", False))
    head_dim, inner = head_dim_of(checkpoint, width, heads), integer("intermediate_size")
    pool = checkpoint.option("classifier_pooling", "cls")
    if pool not in ("cls", "mean"):
        raise InputError(f"{checkpoint.folder}/config.json: classifier_pooling must be cls or mean, not {pool!r}")
    activation = checkpoint.option("classifier_activation", "gelu")
    masked = MaskedHead(
        table=f"{body}embeddings.tok_embeddings.weight",
        dense="head.dense",
        norm="head.norm",
        norm_spec=norm,
        output="decoder",
        activation=activation,
    )
    each = TokenHead("classifier", hidden="head.dense", activation=activation, norm=("head.norm", norm))
    task, head, state = encoder_head(
        checkpoint,
        "head.dense",
        activation,
        "classifier",
        pool=pool,
        norm=("head.norm", norm),
        masked=masked,
        tokens=dict.fromkeys(("token-classes", "span"), each),
    )
    state |= {
        "embed.table": checkpoint.tensor(f"{body}embeddings.tok_embeddings.weight"),
        **checkpoint.norm(f"{body}embeddings.norm", "embed.norm"),
        **checkpoint.norm(f"{body}final_norm", "final_norm"),
    }
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}layers.{index}.", f"blocks.{index}.", [heads * head_dim] * 3, inner)
    every = integer("global_attn_every_n_layers", 3)
    default = [SLIDING if index % every else FULL for index in range(layers)]
    window = integer("local_attention", 128) // 2
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                head_dim=head_dim,
                rope=_rope(checkpoint, head_dim, kind),
                window=max(1, window) if kind == SLIDING else None,
                causal=False,
            ),
            mixer_norm=norm if index else None,
            ffn=GatedMlpSpec(
                intermediate_size=inner,
                activation=checkpoint.option("hidden_activation", "gelu"),
                bias=f"blocks.{index}.ffn.up.bias.0" in state,
                output_bias=f"blocks.{index}.ffn.down.bias.0" in state,
            ),
            ffn_norm=norm,
        )
        for index, kind in enumerate(layer_types(checkpoint, layers, default))
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=integer("vocab_size"), norm=norm),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state


def _rope(checkpoint: Checkpoint, head_dim: int, kind: str) -> RopeSpec:
    name, theta = _THETA[kind]
    table = rope_table(checkpoint, "rope_parameters").get(kind) or {}
    options = {"rope_theta": checkpoint.number(name, theta), **rope_table(checkpoint, "rope_scaling"), **table}
    return rope_from(checkpoint, options, head_dim)


def _layer(checkpoint: Checkpoint, source: str, target: str, widths: list[int], inner: int) -> dict[str, Tensor]:
    linear, packed, up = checkpoint.linear, f"{source}attn.Wqkv", f"{source}mlp.Wi"
    query, key, value = split_rows(checkpoint, packed, *linear(packed), widths)
    gate, plain = split_rows(checkpoint, up, *linear(up), [inner, inner])
    state = {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": linear(f"{source}attn.Wo")}),
        **stacked(f"{target}ffn", {"gate": gate, "up": plain, "down": linear(f"{source}mlp.Wo")}),
        **checkpoint.norm(f"{source}mlp_norm", f"{target}ffn_norm"),
    }
    if target != "blocks.0.":
        state |= checkpoint.norm(f"{source}attn_norm", f"{target}mixer_norm")
    return state
