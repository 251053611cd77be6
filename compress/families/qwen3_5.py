"""Qwen3.5's language part: Gated DeltaNet on most layers, gated softmax attention on each fourth."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import FULL, attention_of, every, layer_types
from compress.families.family import reads, stacked
from compress.families.rope import rope_of
from compress.families.text import decoder_head, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.mixer import MixerSpec
from compress.model.mixers.gated_attention import GatedAttentionSpec
from compress.model.mixers.gated_delta_net import GatedDeltaNetSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure
from targets.errors import InputError

_LINEAR = "linear_attention"
_HALVES = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_NORMS = {"mixer_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
#: Gains of norms are stored less one, all but those behind the delta rule.
_PLUS = 1.0


@reads("qwen3_5_text", classes=("qwen35",))
def read_qwen3_5(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Positions are those of texts: what the original does for grids of images is left out. So are its heads for
    several tokens at once (`mtp`)."""
    refuse(checkpoint, attn_output_gate=True)
    body, integer = prefix_of(checkpoint, "model"), checkpoint.integer
    checkpoint.used.update(name for name in checkpoint.tensors if name.startswith("mtp."))
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    table = f"{body}embed_tokens.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=False)
    state |= {"embed.table": checkpoint.tensor(table), **checkpoint.norm(f"{body}norm", "final_norm", _PLUS)}
    interval = integer("full_attention_interval", 4)
    kinds = layer_types(checkpoint, layers, every(interval, layers, _LINEAR), (_LINEAR, FULL))
    norm, blocks = NormSpec(kind="rms", eps=checkpoint.number("rms_norm_eps", 1e-6)), []
    for index, kind in enumerate(kinds):
        source, name = f"{body}layers.{index}.", f"blocks.{index}."
        state |= stacked(f"{name}ffn", {part: checkpoint.linear(f"{source}{own}") for part, own in _HALVES.items()})
        for part, own in _NORMS.items():
            state |= checkpoint.norm(f"{source}{own}", f"{name}{part}", _PLUS)
        mixer, found = (_delta_net if kind == _LINEAR else _attention)(checkpoint, source, name)
        state |= found
        ffn = GatedMlpSpec(
            intermediate_size=integer("intermediate_size"), activation=checkpoint.option("hidden_act", "silu")
        )
        blocks.append(BlockSpec(mixer=mixer, mixer_norm=norm, ffn=ffn, ffn_norm=norm))
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


def _delta_net(checkpoint: Checkpoint, source: str, name: str) -> tuple[MixerSpec, dict[str, Tensor]]:
    integer, own, mixer = checkpoint.integer, f"{source}linear_attn.", f"{name}mixer"
    spec = GatedDeltaNetSpec(
        num_key_heads=integer("linear_num_key_heads", 16),
        num_value_heads=integer("linear_num_value_heads", 32),
        key_dim=integer("linear_key_head_dim", 128),
        value_dim=integer("linear_value_head_dim", 128),
        length=integer("linear_conv_kernel_dim", 4, least=2),
        eps=checkpoint.number("rms_norm_eps", 1e-6),
    )
    heads, width = spec.num_value_heads, sum(spec.widths)
    maps = {"packed": "in_proj_qkv", "strength": "in_proj_b", "leave": "in_proj_z", "output": "out_proj"}
    found = stacked(mixer, {part: checkpoint.linear(f"{own}{theirs}") for part, theirs in maps.items()})
    gate = checkpoint.matrix(f"{own}in_proj_a.weight"), checkpoint.tensor(f"{own}dt_bias", (heads,))
    return spec, {
        **found,
        **stacked(mixer, {"gate": gate}),
        **checkpoint.norm(f"{own}norm", f"{mixer}.norm"),
        f"{mixer}.taps.weight": checkpoint.tensor(f"{own}conv1d.weight", (width, 1, spec.length))[:, 0],
        f"{mixer}.rate": checkpoint.tensor(f"{own}A_log", (heads,)).exp(),
    }


def _attention(checkpoint: Checkpoint, source: str, name: str) -> tuple[MixerSpec, dict[str, Tensor]]:
    """Each head has the rows of its queries and then those of its gate."""
    own, mixer, heads = f"{source}self_attn.", f"{name}mixer", checkpoint.integer("num_attention_heads")
    size = checkpoint.integer("head_dim", 256)
    weight, bias = checkpoint.linear(f"{own}q_proj")
    if len(weight) != 2 * heads * size:
        raise InputError(f"{checkpoint.folder}: {own}q_proj.weight has {len(weight)} rows, not {2 * heads * size}")
    query, gate = weight.reshape(heads, 2, size, -1).flatten(2).unbind(1)
    biases = (None, None) if bias is None else bias.reshape(heads, 2, size).unbind(1)
    found = {
        **stacked(f"{mixer}.scores", {"key": checkpoint.linear(f"{own}k_proj")}),
        **stacked(mixer, {"value": checkpoint.linear(f"{own}v_proj"), "output": checkpoint.linear(f"{own}o_proj")}),
    }
    for target, rows, extra in (("scores.query", query, biases[0]), ("gate", gate, biases[1])):
        flat = None if extra is None else torch.flatten(extra)
        found |= stacked(mixer, {target: (rows.reshape(heads * size, -1), flat)})
    for part in ("query", "key"):
        found |= checkpoint.norm(f"{own}{part[0]}_norm", f"{mixer}.scores.{part}_norm", _PLUS)
    attention = attention_of(
        found,
        mixer,
        heads=heads,
        kv_heads=checkpoint.integer("num_key_value_heads", heads),
        head_dim=size,
        rope=rope_of(checkpoint, size, partial=0.25),
        norm=NormSpec(kind="rms", eps=checkpoint.number("rms_norm_eps", 1e-6)),
    )
    return GatedAttentionSpec.model_validate({"scores": attention.scores, "bias": bias is not None}), found
