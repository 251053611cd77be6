"""Phi-1.5 and Phi-2: attention and feed-forward side by side behind one norm, of which a part of each head turns."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import reads
from compress.families.rope import rope_of
from compress.families.text import decoder_head, head_dim_of, layer_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.dense",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "mixer_norm": "input_layernorm",
    "ffn_norm": "input_layernorm",
}


@reads("phi")
def read_phi(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The norm of a layer, which both halves read, is copied to both."""
    body, integer = prefix_of(checkpoint, "model"), checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    heads, norm = integer("num_attention_heads"), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-5))
    head_dim, normed = head_dim_of(checkpoint, width, heads), checkpoint.flag("qk_layernorm", False)
    table = f"{body}embed_tokens.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=False)
    state |= {"embed.table": checkpoint.tensor(table), **checkpoint.norm(f"{body}final_layernorm", "final_norm")}
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}layers.{index}.", f"blocks.{index}.", normed)
    rope = rope_of(checkpoint, head_dim, partial=0.5)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                kv_heads=integer("num_key_value_heads", heads),
                head_dim=head_dim,
                rope=rope,
                norm=norm if normed else None,
            ),
            mixer_norm=norm,
            ffn=MlpSpec(
                intermediate_size=integer("intermediate_size"), activation=checkpoint.option("hidden_act", "gelu_new")
            ),
            ffn_norm=norm,
            residual="parallel",
        )
        for index in range(layers)
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state


def _layer(checkpoint: Checkpoint, source: str, target: str, normed: bool) -> dict[str, Tensor]:
    state = layer_of(checkpoint, source, target, _NAMES)
    if normed:
        state |= checkpoint.norm(f"{source}self_attn.q_layernorm", f"{target}mixer.scores.query_norm")
        state |= checkpoint.norm(f"{source}self_attn.k_layernorm", f"{target}mixer.scores.key_norm")
    return state
