"""DistilBERT: BERT without token types, under names of its own."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads
from compress.families.masked import MaskedHead
from compress.families.text import bert_embedding, encoder_head, layer_of, plain_block, prefix_of, structure_of
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

_NAMES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "mixer_norm": "sa_layer_norm",
    "ffn_norm": "output_layer_norm",
}


@reads("distilbert")
def read_distilbert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    body, integer = prefix_of(checkpoint, "distilbert"), checkpoint.integer
    norm = NormSpec(eps=1e-12)  # in the original's code, not in its config
    block = plain_block(
        checkpoint,
        width=integer("dim"),
        heads=integer("n_heads"),
        intermediate_size=integer("hidden_dim"),
        activation=checkpoint.option("activation", "gelu"),
        norm=norm,
    )
    masked = MaskedHead(
        table=f"{body}embeddings.word_embeddings.weight",
        dense="vocab_transform",
        norm="vocab_layer_norm",
        norm_spec=norm,
        output="vocab_projector",
        activation=checkpoint.option("activation", "gelu"),
    )
    task, head, state = encoder_head(checkpoint, "pre_classifier", "relu", "classifier", masked=masked)
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    layers = integer("n_layers")
    for index in range(layers):
        state |= layer_of(checkpoint, f"{body}transformer.layer.{index}.", f"blocks.{index}.", _NAMES)
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=integer("dim"),
        embed=TokenEmbedSpec(
            vocab_size=integer("vocab_size"), max_positions=integer("max_position_embeddings"), norm=norm
        ),
        blocks=(block,) * layers,
        final_norm=None,
    )
    return structure, state
