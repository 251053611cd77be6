"""trim-vocabulary: only the table rows of tokens that the user's texts have stay. V vocabulary, R rows, E width."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from compress.model.heads.language_model import LanguageModelSpec
from compress.model.heads.masked_language_model import MaskedLanguageModelSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.low_rank_embedding import token_counts, token_embed
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import rebuilt
from targets.errors import InputError

NAME = "trim-vocabulary"
#: Rows that are compared with all kept ones at once.
_BLOCK = 1024


class TrimVocabulary(Options):
    """`keep`: rows that stay. The calibration texts' tokens come first, the most frequent before the others; what is
    left goes to the tokens with the lowest ids, which tokenizers give to special, single-character and frequent
    pieces. `special`: how many of the lowest ids stay in any case."""

    keep: PositiveInt = Field(examples=[10])
    special: NonNegativeInt = Field(default=128, examples=[2])


@rewrite(NAME, TrimVocabulary)
def trim_vocabulary(model: Transformer, options: TrimVocabulary, calibration: Calibration) -> Transformer:
    """Keep the table rows of tokens that the calibration texts have; every other token reads the row most like its own.

    A lookup of V small numbers maps tokens to rows, so token ids and the tokenizer stay as they are and no text
    becomes unreadable. Exact for texts of kept tokens only; a dropped token is read as the kept one whose row has the
    highest cosine with its own, which is not lossless. Refused for language models, which could not write a dropped
    token (use low-rank-embedding), for images, and for tables that are trimmed or factorised already.
    """
    spec, embed = token_embed(model, NAME)
    if isinstance(model.structure.head, LanguageModelSpec | MaskedLanguageModelSpec):
        raise InputError(f"{NAME} is refused: a language model could not write the tokens that are dropped")
    if spec.rows is not None or spec.rank is not None:
        raise InputError(f"{NAME} is refused: the table is trimmed or factorised already; trim first, once")
    if not options.special <= options.keep <= spec.vocab_size:
        raise InputError(
            f"{NAME}: keep {options.keep} must be from {options.special} (special) to {spec.vocab_size} (vocabulary)"
        )
    counts_V = token_counts(model, calibration)
    kept_R = _kept(counts_V, options)
    result = rebuilt(model, model.structure.replace(embed=spec.replace(rows=options.keep)))
    _, new = token_embed(result, NAME)
    assert new.row_V is not None
    new.table.copy_(embed.table[kept_R])
    new.row_V.copy_(_rows(embed.table, kept_R))
    dropped = int(counts_V.sum() - counts_V[kept_R].sum())
    calibration.note(
        f"{NAME}: keeps {options.keep:,} of {spec.vocab_size:,} rows; {dropped:,} of the calibration texts' "
        f"{int(counts_V.sum()):,} tokens are read as others"
    )
    return result


def _kept(counts_V: Tensor, options: TrimVocabulary) -> Tensor:
    """Ids of the rows that stay (R,), ascending."""
    place_V = torch.arange(len(counts_V), device=counts_V.device)
    rank_V = torch.where(place_V < options.special, counts_V.max() + 1, counts_V)
    order_V = rank_V.sort(descending=True, stable=True).indices  # equal counts: the lowest ids first
    return order_V[: options.keep].sort().values


def _rows(table_VE: Tensor, kept_R: Tensor) -> Tensor:
    """For each token the row that stands for it (V,): its own, or the most similar."""
    unit_VE = F.normalize(table_VE, dim=1)
    starts = range(0, len(unit_VE), _BLOCK)
    nearest = [(unit_VE[start : start + _BLOCK] @ unit_VE[kept_R].T).argmax(dim=1) for start in starts]
    row_V = torch.cat(nearest)
    row_V[kept_R] = torch.arange(len(kept_R), device=row_V.device)
    return row_V
