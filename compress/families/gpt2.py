"""GPT-2: pre-norm causal blocks, learned positions. Its linear maps are stored (inputs, outputs)."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import decoder_head, head_dim_of, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Structure
from compress.model.values.projected import ProjectedValuesSpec


@reads("gpt2")
def read_gpt2(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    refuse(checkpoint, add_cross_attention=False)
    body, integer = prefix_of(checkpoint, "transformer"), checkpoint.integer
    width, layers, vocabulary = integer("n_embd"), integer("n_layer"), integer("vocab_size")
    norm = NormSpec(eps=checkpoint.option("layer_norm_epsilon", 1e-5))
    task, head, state = decoder_head(checkpoint, vocabulary, f"{body}wte.weight", tied=True)
    state |= {
        "embed.table": checkpoint.tensor(f"{body}wte.weight"),
        "embed.position": checkpoint.tensor(f"{body}wpe.weight"),
        **checkpoint.norm(f"{body}ln_f", "final_norm"),
    }
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}h.{index}.", f"blocks.{index}.")
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, max_positions=integer("n_positions")),
        blocks=tuple(_block(checkpoint, width, norm, index) for index in range(layers)),
        final_norm=norm,
    )
    return structure, state


def _block(checkpoint: Checkpoint, width: int, norm: NormSpec, index: int) -> BlockSpec:
    heads = checkpoint.integer("n_head")
    head_dim = head_dim_of(checkpoint, width, heads)
    scale = head_dim**-0.5 if checkpoint.config.get("scale_attn_weights", True) else 1.0
    if checkpoint.config.get("scale_attn_by_inverse_layer_idx"):
        scale /= index + 1
    scores = ProjectedScoresSpec(num_heads=heads, num_kv_heads=heads, head_dim=head_dim, scale=scale)
    values = ProjectedValuesSpec(num_kv_heads=heads, head_dim=head_dim)
    return BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=values, causal=True),
        mixer_norm=norm,
        ffn=MlpSpec(
            intermediate_size=checkpoint.integer("n_inner", 4 * width),
            activation=checkpoint.option("activation_function", "gelu_new"),
        ),
        ffn_norm=norm,
    )


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    def linear(name: str) -> tuple[Tensor, Tensor]:
        weight_IO = checkpoint.tensor(f"{source}{name}.weight")
        return weight_IO.T, checkpoint.tensor(f"{source}{name}.bias", weight_IO.shape[1:])

    weight_3D, bias_3D = linear("attn.c_attn")
    query, key, value = zip(weight_3D.chunk(3), bias_3D.chunk(3), strict=True)
    return {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": linear("attn.c_proj")}),
        **stacked(f"{target}ffn", {"up": linear("mlp.c_fc"), "down": linear("mlp.c_proj")}),
        **checkpoint.norm(f"{source}ln_1", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}ln_2", f"{target}ffn_norm"),
    }
