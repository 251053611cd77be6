"""The encoder of T5 on its own (sentence-T5, GTR): RMS norms, scores that are not scaled, biases of distances that all
layers share."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import reads
from compress.families.text import encoder_head, layer_of, structure_of
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.structure import Structure
from targets.errors import InputError

_NAMES = {
    "query": "0.SelfAttention.q",
    "key": "0.SelfAttention.k",
    "value": "0.SelfAttention.v",
    "output": "0.SelfAttention.o",
    "up": "1.DenseReluDense.wi",
    "down": "1.DenseReluDense.wo",
    "mixer_norm": "0.layer_norm",
    "ffn_norm": "1.layer_norm",
}
#: The maps of a gated feed-forward (T5 1.1).
_GATED = {"gate": "1.DenseReluDense.wi_0", "up": "1.DenseReluDense.wi_1"}


@reads("t5", classes=("t5encoder",))
def read_t5_encoder(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The table of biases, which the first layer holds, is copied to every layer."""
    classes = checkpoint.config.get("architectures")
    if classes != ["T5EncoderModel"]:
        raise InputError(
            f"{checkpoint.folder}/config.json: architectures {classes!r} is not supported, only T5EncoderModel; save "
            "the encoder alone with T5EncoderModel"
        )
    integer = checkpoint.integer
    width, layers, heads, head_dim = integer("d_model"), integer("num_layers"), integer("num_heads"), integer("d_kv")
    norm, first = NormSpec(kind="rms", eps=checkpoint.number("layer_norm_epsilon", 1e-6)), "encoder.block.0.layer.0."
    bias = BucketBiasSpec(
        buckets=integer("relative_attention_num_buckets", 32),
        max_distance=integer("relative_attention_max_distance", 128),
    )
    table = checkpoint.tensor(f"{first}SelfAttention.relative_attention_bias.weight", (bias.buckets, heads))
    task, head, state = encoder_head(checkpoint, "classification_head.dense", "tanh", "classification_head.out_proj")
    words = "shared.weight" if "shared.weight" in checkpoint else "encoder.embed_tokens.weight"
    state |= {"embed.table": checkpoint.tensor(words), **checkpoint.norm("encoder.final_layer_norm", "final_norm")}
    if "encoder.embed_tokens.weight" in checkpoint:
        checkpoint.used.add("encoder.embed_tokens.weight")
    for index in range(layers):
        state |= _layer(checkpoint, f"encoder.block.{index}.layer.", f"blocks.{index}.")
        state[f"blocks.{index}.mixer.bias.table"] = table.clone()
    blocks = tuple(
        BlockSpec(
            mixer=attention_of(
                state,
                f"blocks.{index}.mixer",
                heads=heads,
                head_dim=head_dim,
                scale=1.0,
                causal=False,
            ).replace(bias=bias),
            mixer_norm=norm,
            ffn=_ffn(checkpoint, integer("d_ff")),
            ffn_norm=norm,
        )
        for index in range(layers)
    )
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=integer("vocab_size")),
        blocks=blocks,
        final_norm=norm,
    )
    return structure, state


def _ffn(checkpoint: Checkpoint, size: int) -> FfnSpec:
    gated, _, activation = str(checkpoint.option("feed_forward_proj", "relu")).rpartition("-")
    if gated and activation == "gelu":
        activation = "gelu_new"  # what the configs of T5 1.1 mean
    if gated:
        return GatedMlpSpec.model_validate({"intermediate_size": size, "activation": activation})
    return MlpSpec.model_validate({"intermediate_size": size, "activation": activation, "bias": False})


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    gated = f"{source}{_GATED['gate']}.weight" in checkpoint
    return layer_of(checkpoint, source, target, _NAMES | (_GATED if gated else {}))
