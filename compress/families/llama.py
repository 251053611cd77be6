"""Llama and what is laid out like it (Qwen2, Mistral, SmolLM2): rotary positions, RMS norms, gated feed-forwards,
query heads that may share keys and values."""

from __future__ import annotations

from torch import Tensor

from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import decoder_head, head_dim_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.rope import RopeSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Structure
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError

#: The sliding window of transformers' classes where the config does not say; null is none.
_WINDOW = 4096


@reads("llama", "mistral", "qwen2")
def read_llama(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Which maps have biases is read off the weights. Scaled rotary positions are refused, and sliding windows shorter
    than the longest text."""
    config, integer = checkpoint.config, checkpoint.integer
    windowed = config.get("use_sliding_window", config["model_type"] == "mistral")
    window = config.get("sliding_window", _WINDOW) if windowed else None
    if window and window < integer("max_position_embeddings"):
        raise InputError(
            f"{checkpoint.folder}/config.json: a sliding_window of {window} tokens is not supported; "
            f"for texts of up to {window} tokens set max_position_embeddings to {window}"
        )
    body = prefix_of(checkpoint, "model")
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    norm = NormSpec(kind="rms", eps=checkpoint.option("rms_norm_eps", 1e-6))
    task, head, state = decoder_head(checkpoint, vocabulary, f"{body}embed_tokens.weight", tied=False)
    state |= {
        "embed.table": checkpoint.tensor(f"{body}embed_tokens.weight"),
        **checkpoint.norm(f"{body}norm", "final_norm"),
    }
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}layers.{index}.", f"blocks.{index}.")
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary),
        blocks=tuple(_block(checkpoint, width, norm, f"blocks.{index}.", state) for index in range(layers)),
        final_norm=norm,
    )
    return structure, state


def _rope(checkpoint: Checkpoint) -> RopeSpec:
    config = checkpoint.config
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = table.get("rope_type", table.get("type", "default"))
    if kind != "default":
        raise InputError(f"{checkpoint.folder}/config.json: only the rope_type 'default' is supported, not {kind!r}")
    return RopeSpec(theta=float(table.get("rope_theta", config.get("rope_theta", 10000.0))))


def _block(checkpoint: Checkpoint, width: int, norm: NormSpec, name: str, state: dict[str, Tensor]) -> BlockSpec:
    heads = checkpoint.integer("num_attention_heads")
    kv_heads = checkpoint.integer("num_key_value_heads", heads)
    given = checkpoint.config.get("head_dim")
    head_dim = checkpoint.integer("head_dim") if given else head_dim_of(checkpoint, width, heads)
    scores = ProjectedScoresSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        query_bias=f"{name}mixer.scores.query.bias.0" in state,
        key_bias=f"{name}mixer.scores.key.bias.0" in state,
        rope=_rope(checkpoint),
    )
    values = ProjectedValuesSpec(
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        value_bias=f"{name}mixer.values.value.bias.0" in state,
        output_bias=f"{name}mixer.values.output.bias.0" in state,
    )
    return BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=values, causal=True),
        mixer_norm=norm,
        ffn=GatedMlpSpec(
            intermediate_size=checkpoint.integer("intermediate_size"),
            activation=checkpoint.option("hidden_act", "silu"),
            bias=f"{name}ffn.up.bias.0" in state,
            output_bias=f"{name}ffn.down.bias.0" in state,
        ),
        ffn_norm=norm,
    )


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    linear, attention, mlp = checkpoint.linear, f"{source}self_attn.", f"{source}mlp."
    scores = {"query": linear(f"{attention}q_proj"), "key": linear(f"{attention}k_proj")}
    values = {"value": linear(f"{attention}v_proj"), "output": linear(f"{attention}o_proj")}
    ffn = {name: linear(f"{mlp}{name}_proj") for name in ("gate", "up", "down")}
    return {
        **stacked(f"{target}mixer.scores", scores),
        **stacked(f"{target}mixer.values", values),
        **stacked(f"{target}ffn", ffn),
        **checkpoint.norm(f"{source}input_layernorm", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}post_attention_layernorm", f"{target}ffn_norm"),
    }
