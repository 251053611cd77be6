"""OPT: a table of positions whose first two rows are not places, ReLU."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import reads
from compress.families.text import decoder_head, head_dim_of, layer_of, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure
from targets.errors import InputError

#: Rows of the table of positions before the first place.
_OFFSET = 2

_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "up": "fc1",
    "down": "fc2",
    "mixer_norm": "self_attn_layer_norm",
    "ffn_norm": "final_layer_norm",
}


@reads("opt")
def read_opt(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Places count real tokens. OPT-350m, whose norms stand behind its halves and whose table is narrow, is refused."""
    refuse(checkpoint, do_layer_norm_before=True, _remove_final_layer_norm=False, layer_norm_elementwise_affine=True)
    body, integer = f"{prefix_of(checkpoint, 'model')}decoder.", checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    if integer("word_embed_proj_dim", width) != width:
        raise InputError(
            f"{checkpoint.folder}/config.json: a word_embed_proj_dim other than hidden_size is not supported"
        )
    heads, norm, places = integer("num_attention_heads"), NormSpec(eps=1e-5), integer("max_position_embeddings")
    head_dim, table = head_dim_of(checkpoint, width, heads), f"{body}embed_tokens.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=True)
    state |= {
        "embed.table": checkpoint.tensor(table),
        "embed.position": checkpoint.tensor(f"{body}embed_positions.weight", (places + _OFFSET, width))[_OFFSET:],
        **checkpoint.norm(f"{body}final_layer_norm", "final_norm"),
    }
    for index in range(layers):
        state |= layer_of(checkpoint, f"{body}layers.{index}.", f"blocks.{index}.", _NAMES)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(state, f"blocks.{index}.mixer", heads=heads, head_dim=head_dim),
            mixer_norm=norm,
            ffn=MlpSpec(
                intermediate_size=integer("ffn_dim"),
                activation=checkpoint.option("activation_function", "relu"),
                bias=checkpoint.flag("enable_bias", True),
            ),
            ffn_norm=norm,
        )
        for index in range(layers)
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, max_positions=places, places="mask"),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state
