"""ALBERT: few blocks, run many times over; a narrow vocabulary table that is widened once."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.masked import MaskedHead
from compress.families.text import bert_embedding, encoder_head, layer_of, plain_block, prefix_of, refuse, structure_of
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_NAMES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.dense",
    "up": "ffn",
    "down": "ffn_output",
    "mixer_norm": "attention.LayerNorm",
    "ffn_norm": "full_layer_layer_norm",
}


@reads("albert")
def read_albert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The layers of a group are blocks, looped as often as the group runs. Their biases and gains, which the original
    shares too, are copied to every loop, since blocks hold them per loop."""
    refuse(checkpoint, is_decoder=False, position_embedding_type="absolute")
    body, integer = prefix_of(checkpoint, "albert"), checkpoint.integer
    runs, groups, inner = integer("num_hidden_layers"), integer("num_hidden_groups", 1), integer("inner_group_num", 1)
    if groups > runs:
        raise InputError(f"{checkpoint.folder}/config.json: {groups} groups do not share {runs} layers")
    schedule = _schedule(runs, groups, inner)
    norm = NormSpec(eps=checkpoint.option("layer_norm_eps", 1e-12))
    loops = [sum(step.block == block for step in schedule) for block in range(groups * inner)]
    blocks = tuple(
        plain_block(
            checkpoint,
            width=integer("hidden_size"),
            heads=integer("num_attention_heads"),
            intermediate_size=integer("intermediate_size"),
            activation=checkpoint.option("hidden_act", "gelu_new"),
            norm=norm,
            loops=count,
        )
        for count in loops
    )
    masked = MaskedHead(
        table=f"{body}embeddings.word_embeddings.weight",
        dense="predictions.dense",
        norm="predictions.LayerNorm",
        norm_spec=norm,
        output="predictions.decoder",
        bias="predictions.bias",
        activation=checkpoint.option("hidden_act", "gelu_new"),
    )
    task, head, state = encoder_head(checkpoint, f"{body}pooler", "tanh", "classifier", masked=masked)
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    state |= stacked("embed", {"widen": checkpoint.linear(f"{body}encoder.embedding_hidden_mapping_in")})
    for block, count in enumerate(loops):
        group, layer = divmod(block, inner)
        source = f"{body}encoder.albert_layer_groups.{group}.albert_layers.{layer}."
        state |= _looped(layer_of(checkpoint, source, f"blocks.{block}.", _NAMES), count)
    embed = TokenEmbedSpec(
        vocab_size=integer("vocab_size"),
        max_positions=integer("max_position_embeddings"),
        token_types=integer("type_vocab_size", 2),
        width=integer("embedding_size"),
        norm=norm,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        schedule=schedule,
        hidden_size=integer("hidden_size"),
        embed=embed,
        blocks=blocks,
        final_norm=None,
    )
    return structure, state


def _schedule(runs: int, groups: int, inner: int) -> tuple[Step, ...]:
    """Run r is of group floor(r * groups / runs), and runs that group's layers one after the other."""
    order = [int(run / (runs / groups)) * inner + layer for run in range(runs) for layer in range(inner)]
    return tuple(Step(block=block, loop=order[:index].count(block), origin=index) for index, block in enumerate(order))


def _looped(state: dict[str, Tensor], loops: int) -> dict[str, Tensor]:
    """The same for every loop: entries that end in the loop's index are copied."""
    copies: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        names = [f"{stem}.{loop}" for loop in range(loops)] if last == "0" else [name]
        copies |= {copy: tensor.clone() for copy in names}
    return copies
