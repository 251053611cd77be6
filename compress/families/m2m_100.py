"""M2M100 and NLLB: norms before the halves and behind the last block, places of sines and cosines that begin behind the
number of the padding token."""

from __future__ import annotations

from torch import Tensor

from compress.families.encoder_decoder import read_like_bart
from compress.families.family import Checkpoint, reads
from compress.model.structure import Structure


@reads("m2m_100", classes=("m2m100",))
def read_m2m_100(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Places count real tokens, from `pad_token_id` + 1 on; padding, which nothing reads, is at the place before."""
    first = checkpoint.integer("pad_token_id", 1, least=0) + 1
    embed = {"waves": "closed", "places": "mask", "offset": first}
    return read_like_bart(checkpoint, pre_norm=True, embed_norm=False, embed=embed)
