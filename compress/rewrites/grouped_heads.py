"""grouped-heads: neighbouring heads share keys and values (grouped-query attention).

D hidden size, I inputs of a map with its bias (D + 1), H heads, G heads of keys and values, K query/key or value size,
R what a head weighs a map by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from compress.model.block import BlockSpec
from compress.model.projection import Projection
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues
from compress.rewrites.calibration import Calibration, Moments, input_moments, roots
from compress.rewrites.layers import Layers, resolve
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, key_head_count
from compress.rewrites.surgery import Special, attention, attention_spec, single_loop, values_spec, with_blocks
from compress.rewrites.value_fit import head_moments
from targets.errors import InputError

NAME = "grouped-heads"
#: What attention may have that this carries over.
CARRIES: frozenset[Special] = frozenset({"window", "bias", "cap"})


class GroupedHeads(Options):
    """`groups`: heads of keys and values that stay in each chosen layer; a divisor of those that there are."""

    groups: PositiveInt = Field(examples=[1])
    layers: Layers = "all"


def _groups(structure: Structure) -> Iterator[dict[str, Any]]:
    whole = key_head_count(structure) or 1
    yield from ({"groups": whole // part} for part in (2, 4, 3, 8) if whole % part == 0)


@rewrite(NAME, GroupedHeads, search=SearchRange(("mixer",), _groups))
def grouped_heads(model: Transformer, options: GroupedHeads, calibration: Calibration) -> Transformer:
    """Let neighbouring heads share keys and values, which shrinks a decoder's cache.

    In place of the mean of a group's maps (Ainslie et al. 2023, arXiv 2305.13245) stands the map of K directions that
    all of them follow from best: their truncated SVD, weighed by E[x x^T] and by what each head's queries or output
    map make of it. Queries take in how a head's keys follow from the shared ones. Under rotary positions that is one
    complex number for each pair that turns, as turning commutes with it. The output map is fitted again by least
    squares. Not exact, but where a group's maps span the same directions. "auto:K" takes the layers whose output stays
    best explained. Refused for looped blocks and for normed queries and keys.
    """
    blocks = resolve(
        options.layers,
        model,
        lambda spec: _check(spec, options.groups, model.structure.hidden_size),
        lambda blocks: {block: _grouped(model, options.groups, calibration, block)[1] for block in blocks},
    )
    for block in blocks:  # one after the other, on inputs that the earlier ones changed
        model, unexplained = _grouped(model, options.groups, calibration, block)
        calibration.note(f"{NAME}: layer {block} leaves {unexplained:.1%} of its output unexplained")
    return model


def _check(spec: BlockSpec, groups: int, hidden_size: int) -> None:
    scores, values = attention_spec(spec, NAME, CARRIES).scores, values_spec(spec, NAME, CARRIES)
    single_loop(spec, NAME)
    if not isinstance(scores, ProjectedScoresSpec) or scores.num_kv_heads != values.num_kv_heads:
        raise InputError(f"{NAME} is refused: it works on projected scores and values of as many heads; apply it first")
    if scores.num_kv_heads % groups:
        raise InputError(
            f"{NAME}: a layer has {scores.num_kv_heads} heads of keys and values; {groups} does not divide it"
        )
    if max(scores.head_dim, values.head_dim) > hidden_size:
        raise InputError(f"{NAME} is refused: a head is wider than the hidden size {hidden_size}")


def _grouped(model: Transformer, groups: int, calibration: Calibration, block: int) -> tuple[Transformer, float]:
    """The model with fewer heads of keys and values in this block, and what its output leaves unexplained."""
    old = attention(model.block(block))
    assert isinstance(old.scores, ProjectedScores) and isinstance(old.values, ProjectedValues)
    if old.values.num_kv_heads == groups:
        return model, 0.0
    half_II, _ = roots(_with_one(input_moments(model, calibration, [block], "mixer.in")[block]))
    query_HKI, key_GKI = _shared_keys(old.scores, groups, half_II)
    value_GKI = _shared_values(old.values, groups, half_II)
    result = with_blocks(model, lambda spec: _fewer(spec, groups), [block])
    new = attention(result.block(block))
    assert isinstance(new.scores, ProjectedScores) and isinstance(new.values, ProjectedValues)
    _set(new.scores.query, query_HKI)
    _set(new.scores.key, key_GKI)
    _set(new.values.value, value_GKI)
    fit = head_moments(result, calibration, [block])[block].fit()
    new.values.output.set(fit.weight_IO.T.float(), fit.bias_O.float())
    return result, fit.fvu


def _with_one(moments: Moments) -> Tensor:
    """E[(x, 1) (x, 1)^T] (I,I)."""
    mean_D1 = moments.mean_x_I[:, None]
    below_1I = torch.cat([mean_D1.T, mean_D1.new_ones(1, 1)], dim=1)
    return torch.cat([torch.cat([moments.second_II, mean_D1], dim=1), below_1I])


def _maps(projection: Projection, heads: int) -> Tensor:
    """The map of each head with its bias behind it (H,K,I), in float64."""
    whole_WI = torch.cat([projection.weight, projection.bias_or_zero()[:, None]], dim=1)
    return whole_WI.double().reshape(heads, -1, whole_WI.shape[1])


def _set(projection: Projection, maps_HKI: Tensor) -> None:
    whole_WI = maps_HKI.flatten(0, 1).float()
    projection.set(whole_WI[:, :-1], whole_WI[:, -1] if len(projection.bias) else None)


def _fewer(spec: BlockSpec, groups: int) -> BlockSpec:
    mixer = attention_spec(spec, NAME, CARRIES)
    scores = mixer.scores.replace(num_kv_heads=groups)
    values = mixer.values.replace(num_kv_heads=groups, output_bias=True)
    return spec.replace(mixer=mixer.replace(scores=scores, values=values))


def _shared_values(values: ProjectedValues, groups: int, half_II: Tensor) -> Tensor:
    """The values' map of each group (G,K,I). The heads' own mixtures are left to the fit of the output map."""
    value_HKI = _maps(values.value, values.num_kv_heads)
    heads, size = value_HKI.shape[:2]
    output_DHSK = values.output.weight.double().reshape(-1, heads, values.output.weight.shape[1] // heads // size, size)
    weigher_HRK = output_DHSK.permute(1, 2, 0, 3).flatten(1, 2)  # all S query heads that a value head serves weigh it
    parts = zip(value_HKI.chunk(groups), weigher_HRK.chunk(groups), strict=True)
    return torch.stack([_shared(maps_HKI, by_HRK, half_II)[0] for maps_HKI, by_HRK in parts])


def _shared_keys(scores: ProjectedScores, groups: int, half_II: Tensor) -> tuple[Tensor, Tensor]:
    """The queries' maps (H,K,I) and the keys' map of each group (G,K,I)."""
    spec = scores.spec
    query_HKI, key_HKI = _maps(scores.query, spec.num_heads), _maps(scores.key, spec.num_kv_heads)
    turned = 0 if spec.rope is None else spec.rope.turned(spec.head_dim)
    new_HKI, new_GKI = query_HKI.clone(), key_HKI[:groups].clone()
    for places_K in _pieces(turned, spec.head_dim):
        mine_HKI, theirs_HKI = _piece(query_HKI, places_K), _piece(key_HKI, places_K)
        mine, theirs = _shared_piece(mine_HKI, theirs_HKI, groups, half_II)
        _put(new_HKI, places_K, mine)
        _put(new_GKI, places_K, theirs)
    return new_HKI, new_GKI


def _pieces(turned: int, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Places of a head's numbers: real and imaginary parts of each pair that turns, then those that do not turn."""
    for place in range(turned // 2):
        yield torch.tensor([place]), torch.tensor([place + turned // 2])
    if turned < size:
        yield (torch.arange(turned, size),)


def _piece(maps_HKI: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    parts = [maps_HKI[:, place] for place in places]
    return parts[0] if len(parts) == 1 else torch.complex(*parts)


def _put(maps_HKI: Tensor, places: tuple[Tensor, ...], piece_HKI: Tensor) -> None:
    parts = (piece_HKI,) if len(places) == 1 else (piece_HKI.real, piece_HKI.imag)
    for place, part in zip(places, parts, strict=True):
        maps_HKI[:, place] = part


def _shared_piece(query_HKI: Tensor, key_HKI: Tensor, groups: int, half_II: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a piece of each head in which any mixture may stand between queries and keys."""
    sharing = len(query_HKI) // len(key_HKI)
    seen_HIK = (query_HKI @ half_II.to(query_HKI)).mH
    weigher_HIK = seen_HIK.reshape(len(key_HKI), -1, seen_HIK.shape[2])
    queries, keys = [], []
    parts = zip(query_HKI.chunk(groups), key_HKI.chunk(groups), weigher_HIK.chunk(groups), strict=True)
    for mine_HKI, maps_HKI, by_HIK in parts:
        shared_KI, mixes_HKK = _shared(maps_HKI, by_HIK, half_II)
        queries.append(mixes_HKK.repeat_interleave(sharing, dim=0).mH @ mine_HKI)
        keys.append(shared_KI)
    return torch.cat(queries), torch.stack(keys)


def _shared(maps_HKI: Tensor, weigher_HRK: Tensor, half_II: Tensor) -> tuple[Tensor, Tensor]:
    """B (K,I) and M (H,K,K) with the least sum over heads of E|weigher_h (maps_h - M_h B) (x, 1)|^2 that one B allows:
    a truncated SVD. B is as large as what it stands for."""
    half_II = half_II.to(maps_HKI)
    stacked_SI = (torch.linalg.qr(weigher_HRK).R @ maps_HKI).flatten(0, 1)
    u_SS, s_S, _ = torch.linalg.svd(stacked_SI @ half_II, full_matrices=False)
    size = maps_HKI.shape[1]
    inverse_K = torch.where(s_S > 1e-9 * s_S[0], 1 / s_S, 0.0)[:size]
    shared_KI = inverse_K[:, None] * (u_SS[:, :size].mH @ stacked_SI)
    mixes_HKK = maps_HKI @ half_II @ half_II @ shared_KI.mH
    scale_K = mixes_HKK.abs().square().sum(dim=1).mean(dim=0).sqrt()
    scale_K = torch.where(scale_K > 0, scale_K, 1.0)
    return shared_KI * scale_K[:, None], mixes_HKK / scale_K
