"""shortlist: a decoder scores the words alone that the source may become.

S pairs of a token of a source and one of its target, V source vocabulary, W target vocabulary, K words of a token, A
words of all sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field, PositiveInt

from compress.model.embeds.token import TokenEmbed
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.heads.shortlist import Shortlist, ShortlistSpec
from compress.model.sequence import answered_mask
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.surgery import rebuilt
from runtime.texts.text import INPUTS, TARGET, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

NAME = "shortlist"
#: Rounds of expectation and maximization. The likelihood of word translations alone has one maximum.
ROUNDS = 5


class ShortlistOptions(Options):
    """`always`: words of every source, the most frequent ones in targets. `width`: words beside these for each token of
    a source, the likeliest translations of it."""

    width: PositiveInt = Field(default=6, examples=[2])
    always: PositiveInt = Field(default=400, examples=[8])


@dataclass(frozen=True)
class _Pairs:
    """All tokens that stand in the two texts of a pair: `source_S`, `target_S`, and `place_S`, which of all places in
    targets it is."""

    source_S: np.ndarray
    target_S: np.ndarray
    place_S: np.ndarray


@rewrite(NAME, ShortlistOptions)
def shortlist(model: Transformer, options: ShortlistOptions, calibration: Calibration) -> Transformer:
    """Score only the words that a source may become: likely translations of its tokens, and frequent words.

    Translations are learned from the user's pairs as probabilities t(word | token) of IBM Model 1 (Brown et al. 1993,
    by expectation and maximization, without an empty word). The encoder marks the words of a source once; each step of
    the decoder reads the rows of the output table for the words that some source of its batch may become. Words that
    are not on the list of a source lose 20 in the logit, so that no text depends on the sources beside it. Not exact: a
    word that is not on the list is not written. Refused for models that do not write texts for sources.
    Source: Jean et al. 2015 (arXiv 1412.2007) and Junczys-Dowmunt et al. 2018 (arXiv 1804.00344).
    """
    head = model.structure.head
    if model.encoder is None or not isinstance(head, LanguageModelSpec) or isinstance(head, ShortlistSpec):
        has = "has a shortlist already" if isinstance(head, ShortlistSpec) else "does not write texts for sources"
        raise InputError(f"{NAME} is refused: this model {has}")
    assert isinstance(model.encoder.embed, TokenEmbed)
    source_size = model.encoder.embed.spec.vocab_size
    pairs = _pairs(calibration)
    every_A = _of_every_source(model, pairs, head.vocab_size)[: options.always]
    words_VK = _translations(pairs, every_A, source_size, options.width)
    always_A = torch.from_numpy(every_A.copy())
    spec = ShortlistSpec(
        **head.model_dump(exclude={"kind"}), source_size=source_size, width=options.width, always=len(always_A)
    )
    result = rebuilt(model, model.structure.replace(head=spec))
    assert isinstance(result.head, Shortlist)
    result.head.always_A.copy_(always_A)
    words = torch.from_numpy(words_VK)
    result.head.words_VK.copy_(torch.where(words < 0, always_A[0], words))
    calibration.note(_told(result.head, pairs, source_size))
    return result


def _pairs(calibration: Calibration) -> _Pairs:
    """Raises InputError where there is none."""
    import numpy as np

    ids, mask = INPUTS
    parts: list[tuple[np.ndarray, ...]] = []
    done = 0
    for inputs in (calibration.every or calibration.batches)():
        real_BN = answered_mask(inputs)
        target_BN = inputs[TARGET]
        next_BN = target_BN[:, 1:]  # what is written after each token
        real = torch.ones_like(target_BN) if real_BN is None else real_BN
        for source, seen, target, kept in zip(inputs[ids], inputs[mask], next_BN, real[:, 1:], strict=True):
            source_I, target_J = source[seen > 0].numpy(), target[kept > 0].numpy()
            place_J = done + np.arange(len(target_J))
            shape = (len(target_J), len(source_I))
            parts.append(
                (
                    np.broadcast_to(source_I, shape).ravel(),
                    np.broadcast_to(target_J[:, None], shape).ravel(),
                    np.broadcast_to(place_J[:, None], shape).ravel(),
                )
            )
            done += len(target_J)
    if not done:
        raise InputError(f"{NAME} is refused: the user's texts have no pair to learn translations from")
    return _Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _translations(pairs: _Pairs, every_A: np.ndarray, source_size: int, width: int) -> np.ndarray:
    """The likeliest words of each token of a source (V,K) beside those of every source, -1 where fewer were ever seen
    with it."""
    import numpy as np

    targets = int(pairs.target_S.max()) + 1
    kinds_T, kind_S = np.unique(pairs.source_S.astype(np.int64) * targets + pairs.target_S, return_inverse=True)
    source_T, target_T = kinds_T // targets, kinds_T % targets
    likely_T = np.ones(len(kinds_T))
    for _ in range(ROUNDS):
        share_S = likely_T[kind_S]
        share_S /= np.bincount(pairs.place_S, share_S)[pairs.place_S]
        count_T = np.bincount(kind_S, share_S, len(kinds_T))
        likely_T = count_T / np.bincount(source_T, count_T)[source_T]
    own_T = ~np.isin(target_T, every_A)
    source_T, target_T, likely_T = source_T[own_T], target_T[own_T], likely_T[own_T]
    order_T = np.lexsort((-likely_T, source_T))
    source_T, target_T = source_T[order_T], target_T[order_T]
    rank_T = np.arange(len(source_T)) - np.searchsorted(source_T, source_T)
    words_VK = np.full((source_size, width), -1)
    best = rank_T < width
    words_VK[source_T[best], rank_T[best]] = target_T[best]
    return words_VK


def _of_every_source(model: Transformer, pairs: _Pairs, size: int) -> np.ndarray:
    """The vocabulary (W,): the tokens that end a text or are forced first, then words as often as targets have them."""
    import numpy as np

    _, first = np.unique(pairs.place_S, return_index=True)
    often_W = np.bincount(pairs.target_S[first], minlength=size)
    spec = parse_preprocessing(model.structure.preprocessing)
    assert spec.target is not None
    often_W[[*spec.stop, *spec.target.forced]] = often_W.max() + 1
    return np.argsort(-often_W, kind="stable")


def _told(head: Shortlist, pairs: _Pairs, source_size: int) -> str:
    """How much of the targets that were learned from is on the lists of their sources."""
    import numpy as np

    on = head.words_VK.numpy()[pairs.source_S] == pairs.target_S[:, None]
    every = np.zeros(pairs.place_S[-1] + 1, bool)
    np.logical_or.at(every, pairs.place_S, on.any(axis=1) | np.isin(pairs.target_S, head.always_A.numpy()))
    words = len(head.always_A) + head.words_VK.shape[1]
    return (
        f"{NAME}: {100 * every.mean():.2f} % of {len(every):,} words of the targets are on the lists of their sources; "
        f"a list has up to {words:,} words for a source of one token, of {head.vocab_size:,}"
    )
