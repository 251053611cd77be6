"""GPT-NeoX (Pythia): attention and feed-forward side by side, of which a part of each head turns."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of, interleaved_layer
from compress.families.family import reads
from compress.families.rope import rope_of
from compress.families.text import decoder_head, head_dim_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure


@reads("gpt_neox", classes=("gptneox",))
def read_gpt_neox(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    body, integer = prefix_of(checkpoint, "gpt_neox"), checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    heads, norm = integer("num_attention_heads"), NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-5))
    head_dim = head_dim_of(checkpoint, width, heads)
    table = f"{body}embed_in.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=False, output="embed_out")
    state |= {"embed.table": checkpoint.tensor(table), **checkpoint.norm(f"{body}final_layer_norm", "final_norm")}
    for index in range(layers):
        state |= interleaved_layer(checkpoint, f"{body}layers.{index}.", "attention", f"blocks.{index}.", heads)
    turning = checkpoint.number("rotary_emb_base", 10000.0), checkpoint.number("rotary_pct", 0.25)
    rope = rope_of(checkpoint, head_dim, *turning)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                head_dim=head_dim,
                rope=rope,
            ),
            mixer_norm=norm,
            ffn=MlpSpec(
                intermediate_size=integer("intermediate_size"), activation=checkpoint.option("hidden_act", "gelu")
            ),
            ffn_norm=norm,
            residual="parallel" if checkpoint.flag("use_parallel_residual", True) else "pre",
        )
        for index in range(layers)
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state
