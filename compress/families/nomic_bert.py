"""Nomic BERT: BERT's post-norm blocks with rotary positions, gated feed-forwards and no biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compress.families.decoder import attention_of
from compress.families.family import Checkpoint, reads, stacked
from compress.families.llama import split_rows
from compress.families.masked import bert_masked_head
from compress.families.rope import rope_of
from compress.families.text import bert_embedding, encoder_head, head_dim_of, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure


@reads("nomic_bert")
def read_nomic_bert(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Options and tensors by the names of the hub's files, which transformers writes too, or by transformers' own."""
    refuse(
        checkpoint, prenorm=False, parallel_block=False, use_rms_norm=False, causal=False, rotary_emb_interleaved=False
    )
    refuse(checkpoint, rotary_emb_fraction=1.0, rotary_emb_scale_base=None, rotary_scaling_factor=None, num_experts=0)
    refuse(checkpoint, activation_function="swiglu")
    body = prefix_of(checkpoint, "nomic_bert") or prefix_of(checkpoint, "bert")
    width, layers = _either(checkpoint, "hidden_size", "n_embd"), _either(checkpoint, "num_hidden_layers", "n_layer")
    heads, inner = (
        _either(checkpoint, "num_attention_heads", "n_head"),
        _either(checkpoint, "intermediate_size", "n_inner"),
    )
    eps = checkpoint.config.get("layer_norm_eps", checkpoint.config.get("layer_norm_epsilon"))
    norm = NormSpec(eps=1e-12 if eps is None else eps)
    head_dim = checkpoint.integer("head_dim", head_dim_of(checkpoint, width, heads))
    rope = rope_of(checkpoint, head_dim, theta=checkpoint.number("rotary_emb_base", 1000.0))
    masked = bert_masked_head(
        f"{body}embeddings.word_embeddings.weight", norm, checkpoint.option("hidden_act", "silu"), "layer_norm"
    )
    task, head, state = encoder_head(checkpoint, f"{body}pooler.dense", "tanh", "classifier", masked=masked)
    state |= _embedding(checkpoint, body)
    for index in range(layers):
        state |= _layer(checkpoint, body, index, [heads * head_dim] * 3)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                head_dim=head_dim,
                rope=rope,
                causal=False,
            ),
            mixer_norm=norm,
            ffn=GatedMlpSpec(intermediate_size=inner, activation=checkpoint.option("hidden_act", "silu")),
            ffn_norm=norm,
            residual="post",
        )
        for index in range(layers)
    )
    embed = TokenEmbedSpec(
        vocab_size=checkpoint.integer("vocab_size"),
        token_types=checkpoint.integer("type_vocab_size", 2, least=0),
        norm=norm,
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=embed,
        blocks=blocks,
        final_norm=None,
    )
    return structure, state


def _either(checkpoint: Checkpoint, name: str, old: str) -> int:
    return checkpoint.integer(name if name in checkpoint.config else old)


def _embedding(checkpoint: Checkpoint, body: str) -> dict[str, Tensor]:
    if f"{body}emb_ln.weight" not in checkpoint:
        return bert_embedding(checkpoint, f"{body}embeddings.")
    return {
        "embed.table": checkpoint.tensor(f"{body}embeddings.word_embeddings.weight"),
        "embed.token_type": checkpoint.tensor(f"{body}embeddings.token_type_embeddings.weight"),
        **checkpoint.norm(f"{body}emb_ln", "embed.norm"),
    }


def _layer(checkpoint: Checkpoint, body: str, index: int, widths: list[int]) -> dict[str, Tensor]:
    linear, target, named = checkpoint.linear, f"blocks.{index}.", f"{body}encoder.layers.{index}."
    if f"{named}attn.Wqkv.weight" in checkpoint:
        query, key, value = split_rows(checkpoint, f"{named}attn.Wqkv", *linear(f"{named}attn.Wqkv"), widths)
        output, norms = linear(f"{named}attn.out_proj"), {"mixer_norm": "norm1", "ffn_norm": "norm2"}
        ffn = {"gate": linear(f"{named}mlp.fc12"), "up": linear(f"{named}mlp.fc11"), "down": linear(f"{named}mlp.fc2")}
    else:
        named = f"{body}layers.{index}."
        query, key, value = (linear(f"{named}self_attn.{name}_proj") for name in "qkv")
        output = linear(f"{named}self_attn.o_proj")
        norms = {"mixer_norm": "post_attention_layernorm", "ffn_norm": "post_mlp_layernorm"}
        ffn = {name: linear(f"{named}mlp.{name}_proj") for name in ("gate", "up", "down")}
    state: dict[str, Any] = {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": output}),
        **stacked(f"{target}ffn", ffn),
    }
    for place, norm in norms.items():
        state |= checkpoint.norm(f"{named}{norm}", f"{target}{place}")
    return state
