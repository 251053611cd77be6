"""GPT-Neo (TinyStories): GPT-2 whose scores are not scaled, with a window on every other layer."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import reads
from compress.families.text import decoder_head, head_dim_of, layer_of, prefix_of, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure
from targets.errors import InputError

_NAMES = {
    "query": "attn.attention.q_proj",
    "key": "attn.attention.k_proj",
    "value": "attn.attention.v_proj",
    "output": "attn.attention.out_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
    "mixer_norm": "ln_1",
    "ffn_norm": "ln_2",
}


@reads("gpt_neo", classes=("gptneo",))
def read_gpt_neo(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    body, integer = prefix_of(checkpoint, "transformer"), checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_layers"), integer("vocab_size")
    heads, norm = integer("num_heads"), NormSpec(eps=checkpoint.number("layer_norm_epsilon", 1e-5))
    head_dim, window = head_dim_of(checkpoint, width, heads), integer("window_size", 256)
    task, head, state = decoder_head(checkpoint, vocabulary, f"{body}wte.weight", tied=True)
    state |= {
        "embed.table": checkpoint.tensor(f"{body}wte.weight"),
        "embed.position": checkpoint.tensor(f"{body}wpe.weight"),
        **checkpoint.norm(f"{body}ln_f", "final_norm"),
    }
    for index in range(layers):
        state |= layer_of(checkpoint, f"{body}h.{index}.", f"blocks.{index}.", _NAMES)
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                head_dim=head_dim,
                scale=1.0,
                window=window if kind == "local" else None,
            ),
            mixer_norm=norm,
            ffn=MlpSpec(
                intermediate_size=integer("intermediate_size", 4 * width),
                activation=checkpoint.option("activation_function", "gelu_new"),
            ),
            ffn_norm=norm,
        )
        for index, kind in enumerate(_kinds(checkpoint, layers))
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, max_positions=integer("max_position_embeddings")),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state


def _kinds(checkpoint: Checkpoint, layers: int) -> list[str]:
    """`global` or `local` for each layer, from [[[kinds], times], ...]. Raises InputError."""
    given = checkpoint.config.get("attention_types") or [[["global", "local"], layers // 2]]
    named = checkpoint.config.get("attention_layers")
    kinds: object = named
    if kinds is None:
        try:
            kinds = [kind for group, times in given for _ in range(times) for kind in group]
        except (TypeError, ValueError):
            kinds = given
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in ("global", "local") for kind in kinds):
        raise InputError(
            f"{checkpoint.folder}/config.json: attention_types must say global or local for each of {layers} layers, "
            f"not {str(given)[:80]}"
        )
    return kinds
