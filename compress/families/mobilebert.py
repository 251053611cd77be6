"""MobileBERT: a table of three tokens at once, and layers that are narrow inside."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.family import reads, stacked
from compress.families.text import bert_embedding, encoder_head, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.mixers.bottleneck import BottleneckSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

#: The maps of a layer, by the names of the mixer.
_MAPS = {
    "enter": "bottleneck.input.dense",
    "asked": "bottleneck.attention.dense",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "leave": "output.bottleneck.dense",
}
_NORMS = {
    "enter_norm": "bottleneck.input.LayerNorm",
    "asked_norm": "bottleneck.attention.LayerNorm",
    "mixer_norm": "attention.output.LayerNorm",
}


@reads("mobilebert")
def read_mobilebert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Its norms are gains and offsets alone, and those behind a layer and in it stay apart from the maps, since what is
    added to them goes around."""
    refuse(
        checkpoint,
        trigram_input=True,
        use_bottleneck=True,
        use_bottleneck_attention=False,
        key_query_shared_bottleneck=True,
        normalization_type="no_norm",
    )
    body, integer, norm = prefix_of(checkpoint, "mobilebert"), checkpoint.integer, NormSpec(kind="none")
    for option in ("layer_norm_eps", "true_hidden_size"):
        checkpoint.config.get(option)  # of norms that divide; the width inside, said twice
    pooled = checkpoint.flag("classifier_activation", True)
    hidden = f"{body}pooler.dense" if pooled else None
    task, head, state = encoder_head(checkpoint, hidden, "tanh", "classifier")
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    state |= stacked("embed", {"widen": checkpoint.linear(f"{body}embeddings.embedding_transformation")})
    layers, feeds = integer("num_hidden_layers"), integer("num_feedforward_networks", 4)
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}encoder.layer.{index}.", f"blocks.{index}.", feeds)
    mixer = BottleneckSpec(
        width=integer("intra_bottleneck_size", 128),
        num_heads=integer("num_attention_heads"),
        feeds=feeds,
        intermediate_size=integer("intermediate_size"),
        activation=checkpoint.option("hidden_act", "relu"),
        norm=norm,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=integer("hidden_size"),
        embed=TokenEmbedSpec(
            vocab_size=integer("vocab_size"),
            max_positions=integer("max_position_embeddings"),
            token_types=integer("type_vocab_size", 2, least=0),
            width=integer("embedding_size", 128),
            trigram=True,
            norm=norm,
        ),
        blocks=(BlockSpec(mixer=mixer, mixer_norm=norm, ffn=None, ffn_norm=None, residual="post"),) * layers,
        final_norm=None,
    )
    return structure, state


def _layer(checkpoint: Checkpoint, source: str, target: str, feeds: int) -> dict[str, Tensor]:
    """The last feed-forward of a layer is that of BERT, the ones before it stand in a list."""
    mixer = f"{target}mixer"
    state = stacked(mixer, {part: checkpoint.linear(f"{source}{name}") for part, name in _MAPS.items()})
    for part, name in _NORMS.items():
        state |= checkpoint.norm(f"{source}{name}", f"{mixer}.{part}")
    for index in range(feeds):
        own = f"{source}ffn.{index}." if index < feeds - 1 else source
        maps = {"up": checkpoint.linear(f"{own}intermediate.dense"), "down": checkpoint.linear(f"{own}output.dense")}
        state |= stacked(f"{mixer}.feeds.{index}", maps)
        state |= checkpoint.norm(f"{own}output.LayerNorm", f"{mixer}.feed_norms.{index}")
    return state | checkpoint.norm(f"{source}output.bottleneck.LayerNorm", f"{target}mixer_norm")
