"""low-rank-embedding: the vocabulary's table becomes a product of two. V vocabulary, E embedding width, R rank."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from compress.model.embeds.token import TokenEmbed, TokenEmbedSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, Moments, roots, taps
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, each
from compress.rewrites.surgery import rebuilt
from compress.rewrites.width import Width, counted
from targets.errors import InputError

NAME = "low-rank-embedding"


class LowRankEmbedding(Options):
    """`rank`: width of the table that stays, as a count or as a share below 1."""

    rank: Width = Field(examples=[2])


@rewrite(NAME, LowRankEmbedding, search=SearchRange(("table",), each(rank=(0.67, 0.58, 0.5, 0.33))))
def low_rank_embedding(model: Transformer, options: LowRankEmbedding, calibration: Calibration) -> Transformer:
    """Factorise the token table (V x E) into (V x R)(R x E).

    T becomes T M with M (E x E) of rank R. With S = sum_v p_v t_v t_v^T, p_v the frequency of token v in the
    calibration texts (each token counted once more, so that none is forgotten), M minimizes
    tr((I - M)^T S (I - M) W): for W = I the frequency-weighted squared error of the rows. A tied head gives h M^T T^T
    for the hidden state h, so there W = I / tr(S) + C / tr(S C) with C = E[h h^T]: the relative errors of rows and
    logits count alike. M is the truncated SVD of S^1/2 W^1/2 (Eckart-Young). Exact at rank E. Refused for images, for
    tables that are factorised already and for ranks above E.
    Source: the form of Lan et al. 2020 (ALBERT, arXiv 1909.11942), weighted by frequency as Chen et al. 2018
    (GroupReduce, arXiv 1806.06950) do.
    """
    spec, embed = token_embed(model, NAME)
    if spec.rank is not None:
        raise InputError(f"{NAME} is refused: the table has rank {spec.rank} already")
    width = embed.table.shape[1]
    rank = counted(options.rank, width)
    if rank > width:
        raise InputError(f"{NAME} is refused: rank {rank} is above the width of the table ({width})")
    table_VE, share_V = embed.table.double(), row_frequencies(model, calibration)
    second_EE = (table_VE * share_V[:, None]).T @ table_VE
    half_EE, inverse_EE = roots(second_EE)
    weight_EE, unweight_EE = roots(_weight(model, calibration, second_EE))
    u, s, vh = torch.linalg.svd(half_EE @ weight_EE)
    root_R = s[:rank].sqrt()
    down_ER, up_RE = inverse_EE @ u[:, :rank] * root_R, root_R[:, None] * vh[:rank] @ unweight_EE
    structure = model.structure.replace(embed=spec.replace(rank=rank))
    result = rebuilt(model, structure)
    _, new = token_embed(result, NAME)
    assert new.factor is not None
    new.table.copy_((table_VE @ down_ER).float())
    new.factor.set(up_RE.T.float())
    lost = 1 - float(s[:rank].square().sum() / s.square().sum())
    calibration.note(f"{NAME}: rank {rank} of {width} loses {lost:.2%} of the table's energy")
    return result


def _weight(model: Transformer, calibration: Calibration, second_EE: Tensor) -> Tensor:
    """W: what directions of the table's rows are read by."""
    eye_EE = torch.eye(len(second_EE), dtype=torch.float64, device=second_EE.device)
    head = model.structure.head
    if not (isinstance(head, LanguageModelSpec) and head.tied):
        return eye_EE
    last, moments = len(model.structure.schedule) - 1, Moments()
    for inputs in calibration.batches():
        tokens = taps(model, inputs, {(last, "out")})[last, "out"]
        h_BND = tokens.x_BND if model.final_norm is None else model.final_norm(tokens.x_BND)
        moments.add(h_BND, h_BND[..., :1], tokens.real_BN)
    states_EE = moments.second_II
    return eye_EE / second_EE.trace() + states_EE / (second_EE * states_EE).sum()


def token_embed(model: Transformer, name: str) -> tuple[TokenEmbedSpec, TokenEmbed]:
    """Spec and module of a token embedding. Raises InputError if the model has another one."""
    if not isinstance(model.structure.embed, TokenEmbedSpec) or not isinstance(model.embed, TokenEmbed):
        raise InputError(f"{name} is refused: it works on token embeddings, and this model has none")
    return model.structure.embed, model.embed


def token_counts(model: Transformer, calibration: Calibration) -> Tensor:
    """How often each token is in the calibration texts (V,), padding left out."""
    spec, embed = token_embed(model, "counting tokens")
    counts_V = torch.zeros(spec.vocab_size, dtype=torch.int64)
    for inputs in calibration.batches():
        ids_BN, mask_BN = inputs["input_ids"], inputs.get("attention_mask")
        seen = ids_BN.flatten() if mask_BN is None else ids_BN[mask_BN.bool()]
        counts_V += seen.cpu().bincount(minlength=spec.vocab_size)
    return counts_V.to(embed.table.device)


def row_frequencies(model: Transformer, calibration: Calibration) -> Tensor:
    """Share of each row of the table (rows,) in the calibration texts, each token counted once more; float64."""
    _, embed = token_embed(model, "counting tokens")
    counts_V = (token_counts(model, calibration) + 1).double()
    if embed.row_V is None:
        return counts_V / counts_V.sum()
    rows = torch.zeros(len(embed.table), dtype=torch.float64, device=counts_V.device)
    return rows.index_add(0, embed.row_V.long(), counts_V) / counts_V.sum()
