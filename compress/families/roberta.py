"""RoBERTa, XLM-RoBERTa, CamemBERT and data2vec: BERT's blocks, with positions counted from the padding index."""

from __future__ import annotations

from torch import Tensor

from compress.families.bert import lm_head, read_encoder
from compress.families.family import Checkpoint, reads
from compress.families.text import prefix_of
from compress.model.structure import Structure


@reads("roberta", "xlm-roberta", "camembert", "data2vec-text")
def read_roberta(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """A real token's position is the count of real tokens up to it plus the padding index; padding reads the row of
    the padding index itself. Real tokens are those of the attention mask, where the original looks at the ids."""
    offset = checkpoint.integer("pad_token_id", 1, least=0) + 1
    own = "data2vec_text" if checkpoint.config["model_type"] == "data2vec-text" else "roberta"
    body = prefix_of(checkpoint, own)
    return read_encoder(
        checkpoint,
        body,
        "classifier.dense",
        "classifier.out_proj",
        masked=lm_head(checkpoint, body),
        places="mask",
        offset=offset,
    )
