"""BERT, and MiniLM and other sentence encoders of its shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import bert_embedding, encoder_head, plain_block, prefix_of, refuse, structure_of
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure


@reads("bert")
def read_bert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Post-norm blocks over words, positions and token types. The pooler belongs to the classifier alone."""
    body = prefix_of(checkpoint, "bert")
    return read_encoder(checkpoint, body, f"{body}pooler.dense", "classifier")


def read_encoder(
    checkpoint: Checkpoint, body: str, hidden: str, output: str, **places: Any
) -> tuple[Structure, dict[str, Tensor]]:
    """An encoder that has BERT's blocks by BERT's names. `body`: what they start with; `hidden` and `output`: the maps
    of the classifier; `places`: where its positions come from (see `TokenEmbedSpec`)."""
    refuse(checkpoint, is_decoder=False, position_embedding_type="absolute")
    integer = checkpoint.integer
    norm = NormSpec(eps=checkpoint.option("layer_norm_eps", 1e-12))
    block = plain_block(
        checkpoint,
        width=integer("hidden_size"),
        heads=integer("num_attention_heads"),
        intermediate_size=integer("intermediate_size"),
        activation=checkpoint.option("hidden_act", "gelu"),
        norm=norm,
    )
    task, head, state = encoder_head(checkpoint, hidden, "tanh", output)
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    layers = integer("num_hidden_layers")
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}encoder.layer.{index}.", f"blocks.{index}.")
    embed = TokenEmbedSpec(
        vocab_size=integer("vocab_size"),
        max_positions=integer("max_position_embeddings"),
        token_types=integer("type_vocab_size", 2),
        norm=norm,
        **places,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=integer("hidden_size"),
        embed=embed,
        blocks=(block,) * layers,
        final_norm=None,
    )
    return structure, state


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    linear, attention = checkpoint.linear, f"{source}attention."
    scores = {"query": linear(f"{attention}self.query"), "key": linear(f"{attention}self.key")}
    values = {"value": linear(f"{attention}self.value"), "output": linear(f"{attention}output.dense")}
    ffn = {"up": linear(f"{source}intermediate.dense"), "down": linear(f"{source}output.dense")}
    return {
        **stacked(f"{target}mixer.scores", scores),
        **stacked(f"{target}mixer.values", values),
        **stacked(f"{target}ffn", ffn),
        **checkpoint.norm(f"{attention}output.LayerNorm", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}output.LayerNorm", f"{target}ffn_norm"),
    }
