"""The text tower of CLIP with its projection: blocks that look back, and the token that ends the text."""

from __future__ import annotations

from torch import Tensor

from compress.families.decoder import attention_of
from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import head_dim_of, layer_of, prefix_of, structure_of, task_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.embedding import DenseSpec, EmbeddingSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure

_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.out_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
    "mixer_norm": "layer_norm1",
    "ffn_norm": "layer_norm2",
}
#: What the first configs have as the end of a text, whatever it is: there it is the token of the highest number.
_WRONG_END = 2


@reads("clip_text_model", classes=("cliptext",))
def read_clip_text(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """With a projection the vector is the projected token at the end; without, that token behind the last norm."""
    body, integer = prefix_of(checkpoint, "text_model"), checkpoint.integer
    width, layers, heads = (
        integer("hidden_size", 512),
        integer("num_hidden_layers", 12),
        integer("num_attention_heads", 8),
    )
    head_dim, norm = head_dim_of(checkpoint, width, heads), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-5))
    task, _ = task_of(checkpoint, "vector")
    head = EmbeddingSpec(pool="last", normalize=False)
    state = {
        "embed.table": checkpoint.tensor(f"{body}embeddings.token_embedding.weight"),
        "embed.position": checkpoint.tensor(f"{body}embeddings.position_embedding.weight"),
        **checkpoint.norm(f"{body}final_layer_norm", "final_norm"),
    }
    for index in range(layers):
        state |= layer_of(checkpoint, f"{body}encoder.layers.{index}.", f"blocks.{index}.", _NAMES)
    if "text_projection.weight" in checkpoint:
        weight_OD, bias_O = checkpoint.linear("text_projection")
        head = head.replace(dense=(DenseSpec(size=len(weight_OD), bias=bias_O is not None),))
        state |= stacked("head.dense", {"0": (weight_OD, bias_O)})
    checkpoint.config.get("projection_dim")  # read off the weights
    end = integer("eos_token_id", 49407, least=0)
    block = BlockSpec(
        mixer=attention_of(state, "blocks.0.mixer", heads=heads, head_dim=head_dim),
        mixer_norm=norm,
        ffn=MlpSpec(
            intermediate_size=integer("intermediate_size", 2048),
            activation=checkpoint.option("hidden_act", "quick_gelu"),
        ),
        ffn_norm=norm,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(
            vocab_size=integer("vocab_size", 49408),
            max_positions=integer("max_position_embeddings", 77),
            end="highest" if end == _WRONG_END else end,
        ),
        blocks=(block,) * layers,
        final_norm=norm,
    )
    return structure, state
