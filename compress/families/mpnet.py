"""MPNet: BERT's blocks with RoBERTa's places and one table of biases of distances, which all layers share."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import lm_head, read_encoder
from compress.families.family import Checkpoint, reads
from compress.families.text import prefix_of, refuse
from compress.model.biases.buckets import BucketBiasSpec
from compress.model.structure import Structure

#: In the original's code, not in its config.
_PADDING, _BUCKETS = 1, 32

_NAMES = {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mixer_norm": "attention.LayerNorm",
    "ffn_norm": "output.LayerNorm",
}


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
        names=_NAMES,
        bias=(BucketBiasSpec(buckets=_BUCKETS), table),
        token_types=0,
        masked=lm_head(checkpoint, body),
        places="mask",
        offset=_PADDING + 1,
    )
