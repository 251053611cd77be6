"""DistilBERT: BERT without token types, under names of its own."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.masked import MaskedHead
from compress.families.text import bert_embedding, encoder_head, plain_block, prefix_of, structure_of
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure


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
        state |= _layer(checkpoint, f"{body}transformer.layer.{index}.", f"blocks.{index}.")
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


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    linear, attention = checkpoint.linear, f"{source}attention."
    scores = {"query": linear(f"{attention}q_lin"), "key": linear(f"{attention}k_lin")}
    values = {"value": linear(f"{attention}v_lin"), "output": linear(f"{attention}out_lin")}
    return {
        **stacked(f"{target}mixer.scores", scores),
        **stacked(f"{target}mixer.values", values),
        **stacked(f"{target}ffn", {"up": linear(f"{source}ffn.lin1"), "down": linear(f"{source}ffn.lin2")}),
        **checkpoint.norm(f"{source}sa_layer_norm", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}output_layer_norm", f"{target}ffn_norm"),
    }
