"""MPNet: BERT's blocks with RoBERTa's places and one table of biases of distances, which all layers share."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import lm_head, read_encoder
from compress.families.family import Checkpoint, reads, stacked
from compress.families.text import prefix_of, refuse
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.structure import Structure

#: In the original's code, not in its config.
_PADDING, _BUCKETS = 1, 32


@reads("mpnet")
def read_mpnet(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """The table of biases is copied to every layer."""
    refuse(checkpoint, relative_attention_num_buckets=_BUCKETS)
    body, heads = prefix_of(checkpoint, "mpnet"), checkpoint.integer("num_attention_heads")
    table = checkpoint.tensor(f"{body}encoder.relative_attention_bias.weight", (_BUCKETS, heads))
    return read_encoder(
        checkpoint,
        body,
        "classifier.dense",
        "classifier.out_proj",
        layer=_layer,
        bias=(BucketBiasSpec(buckets=_BUCKETS), table),
        token_types=0,
        masked=lm_head(checkpoint, body),
        places="mask",
        offset=_PADDING + 1,
    )


def _layer(checkpoint: Checkpoint, source: str, target: str) -> dict[str, Tensor]:
    linear, attention = checkpoint.linear, f"{source}attention.attn."
    scores = {"query": linear(f"{attention}q"), "key": linear(f"{attention}k")}
    values = {"value": linear(f"{attention}v"), "output": linear(f"{attention}o")}
    ffn = {"up": linear(f"{source}intermediate.dense"), "down": linear(f"{source}output.dense")}
    return {
        **stacked(f"{target}mixer.scores", scores),
        **stacked(f"{target}mixer.values", values),
        **stacked(f"{target}ffn", ffn),
        **checkpoint.norm(f"{source}attention.LayerNorm", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}output.LayerNorm", f"{target}ffn_norm"),
    }
