"""LFM2: short convolutions between gates on most layers, attention with normed queries and keys on the others."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import FULL, attention_of, layer_types
from compress.families.family import reads, stacked
from compress.families.rope import rope_of
from compress.families.text import decoder_head, head_dim_of, layer_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.mixer import MixerSpec
from compress.model.mixers.short_convolution import ShortConvolutionSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

_CONVOLUTION = "conv"
_HALVES = {
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
    "mixer_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
}
_ATTENTION = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
}
#: Options that the weights show, that the original does not read, and those of the start of training.
_SHOWN = ("conv_bias", "intermediate_size", "block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim")
_UNREAD = ("num_heads", "block_dim", "block_ff_dim", "block_norm_eps", "block_use_swiglu", "conv_dim", "conv_dim_out")
_START = ("block_use_xavier_init", "conv_use_xavier_init", "block_mlp_init_scale", "block_out_init_scale")


@reads("lfm2")
def read_lfm2(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    for option in (*_SHOWN, *_UNREAD, *_START, "use_pos_enc", "theta"):
        checkpoint.config.get(option)
    body, integer = prefix_of(checkpoint, "model"), checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    table, norm = f"{body}embed_tokens.weight", NormSpec(kind="rms", eps=checkpoint.number("norm_eps", 1e-5))
    tied = checkpoint.flag("tie_embedding", True)
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=tied)
    state |= {"embed.table": checkpoint.tensor(table), **checkpoint.norm(f"{body}embedding_norm", "final_norm")}
    blocks = []
    for index, kind in enumerate(_kinds(checkpoint, layers)):
        source, name = f"{body}layers.{index}.", f"blocks.{index}."
        names = _HALVES if kind == _CONVOLUTION else _HALVES | _ATTENTION
        state |= layer_of(checkpoint, source, name, names)
        read = _convolution if kind == _CONVOLUTION else _attention
        mixer, found = read(checkpoint, source, name, state)
        state |= found
        blocks.append(
            BlockSpec(
                mixer=mixer,
                mixer_norm=norm,
                ffn=GatedMlpSpec(intermediate_size=len(state[f"{name}ffn.up.weight"])),
                ffn_norm=norm,
            )
        )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary),
        blocks=tuple(blocks),
        final_norm=norm,
    )
    return structure, state


def _kinds(checkpoint: Checkpoint, layers: int) -> list[str]:
    """Of each layer, by name or by the numbers of those with attention. Raises InputError."""
    numbers = checkpoint.config.get("full_attn_idxs")
    if numbers is None:
        numbers = range(layers)
    named = [FULL if index in numbers else _CONVOLUTION for index in range(layers)]
    return layer_types(checkpoint, layers, named, (FULL, _CONVOLUTION))


def _convolution(
    checkpoint: Checkpoint, source: str, name: str, state: dict[str, Tensor]
) -> tuple[MixerSpec, dict[str, Tensor]]:
    width, length = checkpoint.integer("hidden_size"), checkpoint.integer("conv_L_cache", 3, least=2)
    packed, output = checkpoint.linear(f"{source}conv.in_proj"), checkpoint.linear(f"{source}conv.out_proj")
    found = stacked(f"{name}mixer", {"packed": packed, "output": output})
    found[f"{name}mixer.taps.weight"] = checkpoint.tensor(f"{source}conv.conv.weight", (width, 1, length))[:, 0]
    biased = packed[1] is not None
    if biased:
        found[f"{name}mixer.taps.bias.0"] = checkpoint.tensor(f"{source}conv.conv.bias", (width,))
    return ShortConvolutionSpec(length=length, bias=biased), found


def _attention(
    checkpoint: Checkpoint, source: str, name: str, state: dict[str, Tensor]
) -> tuple[MixerSpec, dict[str, Tensor]]:
    heads, width = checkpoint.integer("num_attention_heads"), checkpoint.integer("hidden_size")
    given = checkpoint.config.get("head_dim")
    head_dim = checkpoint.integer("head_dim") if given else head_dim_of(checkpoint, width, heads)
    found: dict[str, Tensor] = {}
    for part in ("query", "key"):
        found |= checkpoint.norm(f"{source}self_attn.{part[0]}_layernorm", f"{name}mixer.scores.{part}_norm")
    mixer = attention_of(
        state | found,
        f"{name}mixer",
        heads=heads,
        kv_heads=checkpoint.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=rope_of(checkpoint, head_dim, theta=1e6),
        norm=NormSpec(kind="rms", eps=checkpoint.number("norm_eps", 1e-5)),
    )
    return mixer, found
