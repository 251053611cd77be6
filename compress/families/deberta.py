"""DeBERTa-v2 and v3: BERT's blocks whose logits also have queries and keys with places.

H heads, K head size, S places.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from compress.families.checkpoint import Checkpoint
from compress.families.family import reads
from compress.families.masked import MaskedHead, bert_masked_head
from compress.families.text import (
    bert_embedding,
    encoder_head,
    head_dim_of,
    layer_of,
    plain_block,
    prefix_of,
    refuse,
    structure_of,
)
from compress.model.biases.disentangled import DisentangledBiasSpec
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Structure
from targets.errors import InputError

_NAMES = {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mixer_norm": "attention.output.LayerNorm",
    "ffn_norm": "output.LayerNorm",
}


@reads("deberta-v2")
def read_deberta(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """What the maps of a layer make of the embeddings of places is computed once. A convolution beside the first layer
    (DeBERTa-v2-xlarge) is refused."""
    integer, body = checkpoint.integer, prefix_of(checkpoint, "deberta")
    width, heads, layers = integer("hidden_size"), integer("num_attention_heads"), integer("num_hidden_layers")
    refuse(checkpoint, embedding_size=width, conv_kernel_size=0, pooler_hidden_size=width)
    head_dim, norm = head_dim_of(checkpoint, width, heads), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-7))
    bias, kinds = _bias(checkpoint, head_dim), _kinds(checkpoint)
    scale = (head_dim * (1 + len(kinds))) ** -0.5
    activation = checkpoint.option("pooler_hidden_act", "gelu")
    task, head, state = encoder_head(
        checkpoint, "pooler.dense", activation, "classifier", masked=_masked(checkpoint, body, norm)
    )
    positions = integer("max_position_embeddings", 512) if checkpoint.flag("position_biased_input", True) else 0
    state |= bert_embedding(checkpoint, f"{body}embeddings.")
    places_SD = _places(checkpoint, f"{body}encoder.", bias, norm) if bias else None
    for index in range(layers):
        source, target = f"{body}encoder.layer.{index}.", f"blocks.{index}."
        state |= layer_of(checkpoint, source, target, _NAMES)
        if places_SD is not None and bias is not None:
            state |= _place_maps(checkpoint, source, target, places_SD, kinds, bias, scale)
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(
            vocab_size=integer("vocab_size"),
            max_positions=positions,
            token_types=integer("type_vocab_size", 0, least=0),
            norm=norm,
        ),
        blocks=(_block(checkpoint, width, heads, norm, scale, bias),) * layers,
        final_norm=None,
    )
    return structure, state


def _block(
    checkpoint: Checkpoint, width: int, heads: int, norm: NormSpec, scale: float, bias: DisentangledBiasSpec | None
) -> BlockSpec:
    block = plain_block(
        checkpoint,
        width=width,
        heads=heads,
        intermediate_size=checkpoint.integer("intermediate_size"),
        activation=checkpoint.option("hidden_act", "gelu"),
        norm=norm,
        bias=bias,
    )
    mixer = block.mixer
    assert isinstance(mixer, SoftmaxAttentionSpec) and isinstance(mixer.scores, ProjectedScoresSpec)
    return block.replace(mixer=mixer.replace(scores=mixer.scores.replace(scale=scale)))


def _kinds(checkpoint: Checkpoint) -> list[str]:
    given = checkpoint.config.get("pos_att_type") or []
    kinds = given.lower().split("|") if isinstance(given, str) else given
    if not isinstance(kinds, list) or any(kind not in ("c2p", "p2c") for kind in kinds):
        raise InputError(f"{checkpoint.folder}/config.json: pos_att_type may hold c2p and p2c, not {given!r}")
    return kinds


def _bias(checkpoint: Checkpoint, head_dim: int) -> DisentangledBiasSpec | None:
    longest, buckets = (checkpoint.config.get(name) for name in ("max_relative_positions", "position_buckets"))
    if not checkpoint.flag("relative_attention", False):
        return None
    if not isinstance(longest, int) or longest < 1:
        longest = checkpoint.integer("max_position_embeddings", 512)
    if not isinstance(buckets, int) or buckets < 1:
        return DisentangledBiasSpec(head_dim=head_dim, span=longest)
    return DisentangledBiasSpec(head_dim=head_dim, span=buckets, max_distance=longest)


def _masked(checkpoint: Checkpoint, body: str, norm: NormSpec) -> MaskedHead:
    """The head as transformers' own classes keep it, or as the original code does (`legacy` false)."""
    table, activation = f"{body}embeddings.word_embeddings.weight", checkpoint.option("hidden_act", "gelu")
    if checkpoint.flag("legacy", True):
        return bert_masked_head(table, norm, activation)
    own = "lm_predictions.lm_head"
    return MaskedHead(
        table=table,
        dense=f"{own}.dense",
        norm=f"{own}.LayerNorm",
        norm_spec=norm,
        output=f"{own}.decoder",
        bias=f"{own}.bias",
        activation=activation,
    )


def _places(checkpoint: Checkpoint, source: str, bias: DisentangledBiasSpec, norm: NormSpec) -> Tensor:
    """The embeddings of places (S,D), normed where the config says so."""
    width = checkpoint.integer("hidden_size")
    table_SD = checkpoint.tensor(f"{source}rel_embeddings.weight", (2 * bias.span, width))
    kinds = str(checkpoint.config.get("norm_rel_ebd", "none")).lower().split("|")
    if "layer_norm" not in [kind.strip() for kind in kinds]:
        return table_SD
    gain, offset = (checkpoint.tensor(f"{source}LayerNorm.{part}") for part in ("weight", "bias"))
    return F.layer_norm(table_SD, gain.shape, gain, offset, norm.eps)


def _place_maps(
    checkpoint: Checkpoint,
    source: str,
    target: str,
    places_SD: Tensor,
    kinds: list[str],
    bias: DisentangledBiasSpec,
    scale: float,
) -> dict[str, Tensor]:
    """Keys and scaled queries of the places, zero for the kind that the model does without."""
    shared, attention = checkpoint.flag("share_att_key", False), f"{source}attention.self."
    names = {"c2p": "key_proj" if shared else "pos_key_proj", "p2c": "query_proj" if shared else "pos_query_proj"}
    state = {}
    for kind, name, factor in (("c2p", "key_HSK", 1.0), ("p2c", "query_HSK", scale)):
        made_HSK = places_SD.reshape(len(places_SD), -1, bias.head_dim).transpose(0, 1) * 0
        if kind in kinds:
            weight, offset = checkpoint.linear(f"{attention}{names[kind]}")
            made_SE = F.linear(places_SD, weight, offset)
            made_HSK = made_SE.reshape(len(made_SE), -1, bias.head_dim).transpose(0, 1) * factor
        state[f"{target}mixer.bias.{name}"] = made_HSK.contiguous()
    return state
