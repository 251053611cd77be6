"""BERT, and MiniLM and other sentence encoders of its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.families.each_token import TokenHead
from compress.families.family import Checkpoint, reads, stacked
from compress.families.masked import MaskedHead, bert_masked_head
from compress.families.text import bert_embedding, encoder_head, layer_of, plain_block, prefix_of, refuse, structure_of
from compress.model.activations import ActivationName
from compress.model.bias import BiasSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mixer_norm": "attention.output.LayerNorm",
    "ffn_norm": "output.LayerNorm",
}


@reads("bert")
def read_bert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Post-norm blocks over words, positions and token types. The pooler belongs to the classifier alone."""
    body = prefix_of(checkpoint, "bert")
    table, activation = f"{body}embeddings.word_embeddings.weight", checkpoint.option("hidden_act", "gelu")
    masked = bert_masked_head(table, norm_of(checkpoint), activation)
    return read_encoder(checkpoint, body, f"{body}pooler.dense", "classifier", masked=masked)


def norm_of(checkpoint: Checkpoint) -> NormSpec:
    """The norm behind each half of a block."""
    return NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-12))


def lm_head(checkpoint: Checkpoint, body: str) -> MaskedHead:
    """The masked language model's head as RoBERTa calls it."""
    return MaskedHead(
        table=f"{body}embeddings.word_embeddings.weight",
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        norm_spec=norm_of(checkpoint),
        output="lm_head.decoder",
        bias="lm_head.bias",
    )


def read_encoder(
    checkpoint: Checkpoint,
    body: str,
    hidden: str,
    output: str,
    activation: ActivationName = "tanh",
    names: Mapping[str, str] = _NAMES,
    bias: tuple[BiasSpec, Tensor] | None = None,
    token_types: int = 2,
    masked: MaskedHead | None = None,
    tokens: Mapping[str, TokenHead] | None = None,
    **places: Any,
) -> tuple[Structure, dict[str, Tensor]]:
    """An encoder that has BERT's blocks. `body`: what its names start with; `hidden` and `output`: the maps of the
    classifier, with `activation` between them; `names`: of the tensors of a layer (see `layer_of`); `bias`: of all
    layers' logits, and its table; `token_types`: how many there are where the config does not say; `masked`: where the
    head of a masked language model is kept, and `tokens` where others are (see `encoder_head`); `places`: where its
    positions come from (see `TokenEmbedSpec`). A narrow embedding is widened once."""
    refuse(checkpoint, is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
    integer = checkpoint.integer
    width, norm = integer("hidden_size"), norm_of(checkpoint)
    block = plain_block(
        checkpoint,
        width=width,
        heads=integer("num_attention_heads"),
        intermediate_size=integer("intermediate_size"),
        activation=checkpoint.option("hidden_act", "gelu"),
        norm=norm,
        bias=None if bias is None else bias[0],
    )
    task, head, state = encoder_head(checkpoint, hidden, activation, output, masked=masked, tokens=tokens)
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    layers, narrow = integer("num_hidden_layers"), integer("embedding_size", width)
    for index in range(layers):
        state |= layer_of(checkpoint, f"{body}encoder.layer.{index}.", f"blocks.{index}.", names)
    if narrow != width:
        state |= stacked("embed", {"widen": checkpoint.linear(f"{body}embeddings_project")})
    if bias is not None:
        state |= {f"blocks.{index}.mixer.bias.table": bias[1].clone() for index in range(layers)}
    embed = TokenEmbedSpec(
        vocab_size=integer("vocab_size"),
        max_positions=integer("max_position_embeddings"),
        token_types=integer("type_vocab_size", token_types, least=0),
        width=None if narrow == width else narrow,
        norm=norm,
        **places,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=embed,
        blocks=(block,) * layers,
        final_norm=None,
    )
    return structure, state
