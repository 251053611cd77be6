"""BLOOM: biases that fall with the distance (ALiBi) in place of positions, and a norm behind the table."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of, interleaved_layer
from compress.families.family import reads
from compress.families.text import decoder_head, head_dim_of, prefix_of, refuse, structure_of
from compress.model.biases.alibi import AlibiBiasSpec
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure


@reads("bloom")
def read_bloom(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    refuse(checkpoint, apply_residual_connection_post_layernorm=False)
    body = prefix_of(checkpoint, "transformer")
    named = "hidden_size" if "hidden_size" in checkpoint.config else "n_embed"
    width, layers = checkpoint.integer(named), checkpoint.integer("n_layer")
    heads, vocabulary = checkpoint.integer("n_head"), checkpoint.integer("vocab_size")
    head_dim, norm = head_dim_of(checkpoint, width, heads), NormSpec(eps=checkpoint.number("layer_norm_epsilon", 1e-5))
    table = f"{body}word_embeddings.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=True)
    state |= {
        "embed.table": checkpoint.tensor(table),
        **checkpoint.norm(f"{body}word_embeddings_layernorm", "embed.norm"),
        **checkpoint.norm(f"{body}ln_f", "final_norm"),
    }
    for index in range(layers):
        state |= interleaved_layer(checkpoint, f"{body}h.{index}.", "self_attention", f"blocks.{index}.", heads)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(state, f"blocks.{index}.mixer", heads=heads, head_dim=head_dim).replace(
                bias=AlibiBiasSpec()
            ),
            mixer_norm=norm,
            ffn=MlpSpec(intermediate_size=4 * width, activation="gelu_new"),
            ffn_norm=norm,
        )
        for index in range(layers)
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, norm=norm),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state
