"""Rewrites of attention reach the optimum that they state, and give back what was planted.

T tokens, D hidden size, H heads, R rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rewriting import calibration_of, moved, rewritten, seen
from support.tiny import HIDDEN, block_spec, model_of

from compress.heal.anneal import set_share, settled
from compress.model import Transformer
from compress.model.attention import ScoresSpec
from compress.model.norms import NormSpec
from compress.model.scores.merged import MergedScoresSpec
from compress.model.scores.symmetric import SymmetricScoresSpec
from compress.model.values.diagonal_low_rank import DiagonalLowRank
from compress.model.values.gated_mean import GatedMean
from compress.rewrites.surgery import attention, logit_forms, value_output_HDD


def tokens_of(model: Transformer, block: int = 0) -> np.ndarray:
    """What a block's attention sees over the calibration inputs (T,D)."""
    return seen(model, calibration_of(model), block, "mixer.in").flatten(0, 1).numpy()


def forms_of(model: Transformer, block: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Each head's M (H,D,D) and c (H,D)."""
    forms, offsets = logit_forms(attention(model.block(block)))
    return forms.detach().numpy(), offsets.detach().numpy()


def all_pairs(x_TD: np.ndarray, form_DD: np.ndarray, offset_D: np.ndarray) -> np.ndarray:
    """Logits (T,T) of every token with every token, up to what softmax removes: the mean of each row."""
    logits_TT = x_TD @ form_DD @ x_TD.T + x_TD @ offset_D
    return logits_TT - logits_TT.mean(axis=1, keepdims=True)


def set_block(model: Transformer, tensors: dict[str, torch.Tensor]) -> Transformer:
    """Put in weights of block 0, by the ends of their names."""
    with torch.no_grad():
        for name, parameter in model.block(0).named_parameters():
            for end, tensor in tensors.items():
                if name.endswith(end):
                    parameter.copy_(tensor)
    return model


@pytest.mark.parametrize(
    "spec",
    [
        block_spec(),
        block_spec(heads=4, kv_heads=2, query_bias=False),
        block_spec(scores=MergedScoresSpec(num_heads=2)),
        block_spec(scores=SymmetricScoresSpec(num_heads=2, head_dim=3)),
    ],
)
def test_logit_forms_give_the_logits_up_to_a_constant_of_each_row(spec: Any) -> None:
    model = model_of(spec)
    x_BND = seen(model, calibration_of(model), 0, "mixer.in").float()
    q_BHNK, k_BGNK = attention(model.block(0)).scores(x_BND, 0, None)
    k_BHNK = k_BGNK.repeat_interleave(q_BHNK.shape[1] // k_BGNK.shape[1], dim=1)
    logits_BHNN = (q_BHNK @ k_BHNK.transpose(2, 3)).detach().double()
    forms_HDD, offsets_HD = logit_forms(attention(model.block(0)))
    x_BHND = x_BND.double()[:, None]
    mine_BHNN = x_BHND @ forms_HDD @ x_BHND.transpose(2, 3) + (offsets_HD[:, None] @ x_BHND.transpose(2, 3))
    difference_BHNN = logits_BHNN - mine_BHNN
    assert (difference_BHNN - difference_BHNN.mean(-1, keepdim=True)).abs().max().item() <= 1e-5


@settings(max_examples=15, deadline=None)
@given(
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 2),
    dims=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    biases=st.tuples(*[st.booleans()] * 3),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_low_rank_heads_at_full_rank_keep_the_logits(
    kv_heads: int, groups: int, dims: tuple[int, int], biases: tuple[bool, bool, bool], causal: bool, seed: int
) -> None:
    spec = block_spec(
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=dims[0],
        value_dim=dims[1],
        query_bias=biases[0],
        key_bias=biases[1],
        value_bias=biases[2],
        causal=causal,
    )
    model = model_of(spec, spec, seed=seed)
    result = rewritten(model, "low-rank-heads", rank=dims[0], value_rank=dims[1])
    assert moved(model, result) <= 2e-5


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_low_rank_heads_reach_the_least_squared_error_of_the_logits(rank: int) -> None:
    model = model_of(block_spec(head_dim=6))
    x_TD = tokens_of(model)
    forms, offsets = forms_of(model)
    shorter_forms, shorter_offsets = forms_of(rewritten(model, "low-rank-heads", rank=rank))
    covariance = np.cov(x_TD, rowvar=False, bias=True)
    ones_TE = np.column_stack([x_TD, np.ones(len(x_TD))])
    rng = np.random.default_rng(0)
    for head, (form, offset) in enumerate(zip(forms, offsets, strict=True)):
        target = all_pairs(x_TD, form, offset)

        def error(form: np.ndarray, offset: np.ndarray, target: np.ndarray = target) -> float:
            return float(((target - all_pairs(x_TD, form, offset)) ** 2).mean())

        reached = error(shorter_forms[head], shorter_offsets[head])
        # Eckart-Young: the energy of the singular values beyond the rank, of the whole (T,T) matrix of logits.
        beyond = np.linalg.svd(target, compute_uv=False)[rank:]
        assert reached == pytest.approx(float((beyond**2).sum()) / target.size, rel=1e-3)
        # Truncation without the metric, and factors nearby: none of the same rank does better.
        u, s, vh = np.linalg.svd(np.vstack([form, offset]))
        plain = (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert error(plain[:-1], plain[-1]) >= reached
        best = np.vstack([shorter_forms[head], shorter_offsets[head]])
        u, s, vh = np.linalg.svd(best)
        left, right = u[:, :rank] * s[:rank], vh[:rank]
        for size in (1e-3, 1e-2, 1e-1, 1.0) * 10:
            other = (left + size * rng.normal(size=left.shape)) @ (right + size * rng.normal(size=right.shape))
            assert error(other[:-1], other[-1]) >= reached * (1 - 1e-6)
        assert np.linalg.matrix_rank(best, tol=1e-5) == rank
        # The stated metric gives the same error: S^1/2 E C^1/2 with S of the tokens beside a one.
        gap = np.vstack([form, offset]) - best
        second = ones_TE.T @ ones_TE / len(ones_TE)
        assert np.trace(gap.T @ second @ gap @ covariance) == pytest.approx(reached, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_values_reach_the_least_squared_error_of_what_is_carried(rank: int) -> None:
    model = model_of(block_spec(head_dim=5))
    x_TD = tokens_of(model)
    before, after = (
        value_output_HDD(attention(each.block(0))).detach().numpy()
        for each in (model, rewritten(model, "low-rank-heads", rank=5, value_rank=rank))
    )
    for whole, short in zip(before, after, strict=True):
        beyond = np.linalg.svd(x_TD @ whole, compute_uv=False)[rank:]
        assert ((x_TD @ (whole - short)) ** 2).sum() == pytest.approx((beyond**2).sum(), rel=1e-3)


def test_low_rank_heads_note_the_share_of_logit_variance_that_is_lost() -> None:
    model, notes = model_of(block_spec(head_dim=6)), []
    rewritten(model, "low-rank-heads", calibration_of(model, notes=notes), rank=2)
    x_TD = tokens_of(model)
    energies = [
        np.linalg.svd(all_pairs(x_TD, form, offset), compute_uv=False) ** 2
        for form, offset in zip(*forms_of(model), strict=True)
    ]
    lost = sum(energy[2:].sum() for energy in energies) / sum(energy.sum() for energy in energies)
    assert notes == [f"low-rank-heads: layer 0 loses {lost:.2%} of logit variance"]


@pytest.mark.parametrize("signed", [True, False])
def test_symmetric_qk_reaches_the_best_symmetric_fit(signed: bool) -> None:
    model = model_of(block_spec(head_dim=6))
    x_TD = tokens_of(model)
    rank = 4
    forms, _ = forms_of(model)
    fits, _ = forms_of(rewritten(model, "symmetric-qk", rank=rank, signed=signed))
    rng = np.random.default_rng(0)
    for form, fit in zip(forms, fits, strict=True):

        def error(other: np.ndarray, form: np.ndarray = form) -> float:
            return float(((x_TD @ (form - other) @ x_TD.T) ** 2).mean())

        np.testing.assert_allclose(fit, fit.T, atol=1e-6)
        values, vectors = np.linalg.eigh(fit)
        largest = np.argsort(-np.abs(values))[:rank]
        assert np.abs(np.delete(values, largest)).max() <= 1e-5
        assert signed or values.min() >= -1e-5
        half, signs = vectors[:, largest] * np.sqrt(np.abs(values[largest])), np.sign(values[largest])
        reached = error(fit)
        for size in (1e-3, 1e-2, 1e-1, 1.0) * 10:
            other = half + size * rng.normal(size=half.shape)
            assert error((other * signs) @ other.T) >= reached * (1 - 1e-6)


@settings(max_examples=15, deadline=None)
@given(heads=st.integers(1, 3), size=st.integers(1, 5), bias=st.booleans(), seed=st.integers(0, 99))
def test_symmetric_qk_keeps_the_logits_of_a_symmetric_form(heads: int, size: int, bias: bool, seed: int) -> None:
    model = model_of(block_spec(heads=heads, head_dim=size, query_bias=bias), seed=seed)
    query_OD = model.state_dict()["blocks.0.mixer.scores.query.weight"]
    signs_O = torch.randn(heads * size, generator=torch.Generator().manual_seed(seed)).sign()
    set_block(model, {"key.weight": query_OD * signs_O[:, None]})
    assert moved(model, rewritten(model, "symmetric-qk", rank=size)) <= 1e-4


def test_plain_symmetry_keeps_no_negative_direction() -> None:
    model = model_of(block_spec(head_dim=3))
    query_OD = model.state_dict()["blocks.0.mixer.scores.query.weight"]
    positive = set_block(model.copy(), {"key.weight": query_OD})
    assert moved(positive, rewritten(positive, "symmetric-qk", rank=3, signed=False)) <= 1e-4
    negative = set_block(model.copy(), {"key.weight": -query_OD, "query.bias.0": torch.zeros(6)})
    result = rewritten(negative, "symmetric-qk", rank=3, signed=False)
    assert np.abs(forms_of(result)[0]).max() <= 1e-6


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 8), more=st.integers(0, 4), values=st.integers(1, 8), seed=st.integers(0, 99))
def test_single_head_keeps_the_logits_of_a_model_with_one_head(size: int, more: int, values: int, seed: int) -> None:
    model = model_of(*[block_spec(heads=1, head_dim=size, value_dim=values)] * 2, seed=seed)
    result = rewritten(model, "single-head", rank=size + more)
    assert moved(model, result) <= 2e-3


def test_single_head_weighs_the_heads_by_what_they_carry() -> None:
    model = model_of(block_spec(head_dim=4))
    output_DV = model.state_dict()["blocks.0.mixer.values.output.weight"].clone()
    output_DV[:, 4:] = 0
    set_block(model, {"output.weight": output_DV})
    result = rewritten(model, "single-head", rank=4)
    np.testing.assert_allclose(forms_of(result)[0][0], forms_of(model)[0][0], atol=1e-4)
    assert moved(model, result) <= 2e-3


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 8), causal=st.booleans(), seed=st.integers(0, 99))
def test_drop_value_keeps_the_logits_of_a_model_with_one_head(size: int, causal: bool, seed: int) -> None:
    model = model_of(*[block_spec(heads=1, value_dim=size, causal=causal)] * 2, seed=seed)
    result = rewritten(model, "drop-value")
    assert moved(model, result) <= 2e-3
    assert not [name for name in result.state_dict() if "values.value" in name]


def test_drop_value_fits_the_output_on_the_mean_of_the_heads() -> None:
    model, notes = model_of(block_spec(heads=3)), []
    calibration = calibration_of(model, notes=notes)
    values = attention(rewritten(model, "drop-value", calibration).block(0)).values
    assert isinstance(values, GatedMean) and values.output is not None
    x_TD = tokens_of(model)
    norms = [
        np.linalg.svd(x_TD @ whole, compute_uv=False).sum()
        for whole in value_output_HDD(attention(model.block(0))).detach().numpy()
    ]
    gates_H = values.gates[0].detach().numpy()
    np.testing.assert_allclose(gates_H, np.array(norms) / sum(norms), rtol=1e-3)
    z_TD = np.einsum("h,bhnd->bnd", gates_H, views_of(model)).reshape(-1, HIDDEN)
    y_TD = seen(model, calibration, 0, "mixer.out").flatten(0, 1).numpy()
    fitted_TD, residue = least_squares(z_TD, y_TD)
    mine_TD = z_TD @ values.output.weight.detach().numpy().T + values.output.bias[0].detach().numpy()
    np.testing.assert_allclose(mine_TD, fitted_TD, atol=2e-3)
    assert notes == [f"drop-value: layer 0 leaves {residue:.1%} of its output unexplained"]


def views_of(model: Transformer) -> np.ndarray:
    """A_h x of the first block over the calibration inputs (B,H,N,D), from its attention rows."""
    x_BND = seen(model, calibration_of(model), 0, "mixer.in")
    forms_HDD, offsets_HD = logit_forms(attention(model.block(0)))
    x_BHND = x_BND[:, None]
    logits_BHNN = x_BHND @ forms_HDD @ x_BHND.transpose(2, 3) + offsets_HD[:, None] @ x_BHND.transpose(2, 3)
    return (logits_BHNN.softmax(-1) @ x_BHND).detach().numpy()


def least_squares(x_TI: np.ndarray, y_TO: np.ndarray) -> tuple[np.ndarray, float]:
    """The fitted y with an offset, and the fraction of the variance of y that is left."""
    ones_TI = np.column_stack([x_TI, np.ones(len(x_TI))])
    fitted_TO = ones_TI @ np.linalg.lstsq(ones_TI, y_TO, rcond=1e-5)[0]
    return fitted_TO, float(((y_TO - fitted_TO) ** 2).sum() / ((y_TO - y_TO.mean(0)) ** 2).sum())


def planted_gates(gates: list[float]) -> Transformer:
    """A model whose heads carry the tokens themselves, each times its gate."""
    heads = len(gates)
    model = model_of(block_spec(heads=heads, value_dim=HIDDEN, value_bias=False))
    eye = torch.eye(HIDDEN)
    return set_block(
        model,
        {
            "values.value.weight": torch.cat([eye] * heads),
            "values.output.weight": torch.cat([gate * eye for gate in gates], dim=1),
        },
    )


@pytest.mark.parametrize("gates", [[0.7], [1.5, -0.5], [0.2, 0.0, 0.9]])
def test_drop_projection_recovers_planted_gates(gates: list[float]) -> None:
    model = planted_gates(gates)
    result = rewritten(model, "drop-projection")
    values = attention(result.block(0)).values
    assert isinstance(values, GatedMean)
    np.testing.assert_allclose(values.gates[0].detach().numpy(), gates, atol=1e-3)
    assert moved(model, result) <= 1e-3
    assert not [name for name in result.state_dict() if name.endswith(("value.weight", "values.output.weight"))]


def test_drop_projection_fits_its_gates_by_least_squares() -> None:
    model, notes = model_of(block_spec(heads=3)), []
    calibration = calibration_of(model, notes=notes)
    values = attention(rewritten(model, "drop-projection", calibration).block(0)).values
    assert isinstance(values, GatedMean)
    z_HTD = views_of(model).transpose(1, 0, 2, 3).reshape(3, -1, HIDDEN)
    y_TD = seen(model, calibration, 0, "mixer.out").flatten(0, 1).numpy()
    # One gate per head, one offset per feature: regress on centred features, all in one column.
    design = (z_HTD - z_HTD.mean(1, keepdims=True)).reshape(3, -1).T
    target = (y_TD - y_TD.mean(0)).ravel()
    gates, residue, _, _ = np.linalg.lstsq(design, target, rcond=None)
    np.testing.assert_allclose(values.gates[0].detach().numpy(), gates, atol=1e-4)
    offset_D = y_TD.mean(0) - np.einsum("h,hd->d", gates, z_HTD.mean(1))
    np.testing.assert_allclose(values.offset[0].detach().numpy(), offset_D, atol=1e-4)
    left = float(residue[0] / (target**2).sum())
    assert notes == [f"drop-projection: layer 0: the gates alone leave {left:.1%} of its output unexplained"]


def test_a_diagonal_and_a_map_of_full_rank_keep_the_logits() -> None:
    model = model_of(block_spec(), block_spec(causal=True))
    result = rewritten(model, "drop-projection", rank=HIDDEN)
    assert isinstance(attention(result.block(0)).values, DiagonalLowRank)
    assert moved(model, result) <= 1e-3


def test_each_rank_beside_the_diagonal_explains_more() -> None:
    model = model_of(block_spec(heads=1, head_dim=6))
    calibration = calibration_of(model)
    y_BND = seen(model, calibration, 0, "mixer.out")

    def error(rank: int) -> float:
        result = rewritten(model, "drop-projection", calibration, rank=rank)
        return float((seen(result, calibration, 0, "mixer.out") - y_BND).square().mean())

    errors = [error(rank) for rank in (0, 1, 3, 6, 12)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("use", "options"),
    [("drop-value", {}), ("drop-projection", {}), ("drop-projection", {"rank": 2})],
)
def test_annealing_goes_from_the_old_values_to_the_new(use: str, options: dict[str, Any]) -> None:
    model = model_of(block_spec(), block_spec())
    blended = rewritten(model, use, layers=[0], anneal=True, **options)
    assert moved(model, blended) <= 1e-6
    at_once = rewritten(model, use, layers=[0], **options)
    set_share(blended, 1.0)
    assert moved(at_once, blended) <= 1e-6
    assert moved(at_once, settled(blended)) <= 1e-12
    assert settled(blended).structure == at_once.structure


def test_prune_heads_that_keeps_every_head_keeps_the_logits() -> None:
    model = model_of(block_spec(heads=3), block_spec(heads=3, causal=True))
    assert moved(model, rewritten(model, "prune-heads", keep=3)) <= 1e-4


@pytest.mark.parametrize("useless", [0, 1, 2])
def test_prune_heads_removes_the_head_that_does_nothing(useless: int) -> None:
    model, notes = model_of(block_spec(heads=3, head_dim=4)), []
    output_DV = model.state_dict()["blocks.0.mixer.values.output.weight"].clone()
    output_DV[:, 4 * useless : 4 * useless + 4] = 0
    set_block(model, {"output.weight": output_DV})
    result = rewritten(model, "prune-heads", calibration_of(model, notes=notes), keep=2)
    kept = [head for head in range(3) if head != useless]
    assert notes == [f"prune-heads: layer 0 keeps heads {kept}, leaves 0.0% of its output unexplained"]
    assert moved(model, result) <= 1e-4
    np.testing.assert_allclose(forms_of(result)[0], forms_of(model)[0][kept], atol=1e-7)


@pytest.mark.parametrize("useless", [0, 1, 2])
def test_prune_heads_removes_keys_and_values_with_all_heads_that_share_them(useless: int) -> None:
    model, notes = model_of(block_spec(heads=6, kv_heads=3, head_dim=4)), []
    output_DV = model.state_dict()["blocks.0.mixer.values.output.weight"].clone()
    output_DV[:, 8 * useless : 8 * useless + 8] = 0
    set_block(model, {"output.weight": output_DV})
    result = rewritten(model, "prune-heads", calibration_of(model, notes=notes), keep=4)
    kept = [head for head in range(6) if head // 2 != useless]
    assert notes == [f"prune-heads: layer 0 keeps heads {kept}, leaves 0.0% of its output unexplained"]
    assert moved(model, result) <= 1e-4
    np.testing.assert_allclose(forms_of(result)[0], forms_of(model)[0][kept], atol=1e-7)
    assert result.state_dict()["blocks.0.mixer.scores.key.weight"].shape == (8, HIDDEN)


def test_prune_heads_fits_what_stays_by_least_squares() -> None:
    model, notes = model_of(block_spec(heads=3, head_dim=3)), []
    calibration = calibration_of(model, notes=notes)
    result = rewritten(model, "prune-heads", calibration, keep=1)
    values_HDV = model.state_dict()["blocks.0.mixer.values.value.weight"].double().numpy().reshape(3, 3, HIDDEN)
    y_TD = seen(model, calibration, 0, "mixer.out").flatten(0, 1).numpy()
    outputs_HTV = np.einsum("bhnd,hvd->hbnv", views_of(model), values_HDV).reshape(3, -1, 3)

    def left(heads: list[int]) -> float:
        return least_squares(np.hstack([outputs_HTV[head] for head in heads]), y_TD)[1]

    heads = [0, 1, 2]
    while len(heads) > 1:
        heads.remove(min(heads, key=lambda head: left([other for other in heads if other != head])))
    assert notes == [f"prune-heads: layer 0 keeps heads {heads}, leaves {left(heads):.1%} of its output unexplained"]
    mine_TD = seen(result, calibration, 0, "mixer.out").flatten(0, 1).numpy()
    np.testing.assert_allclose(mine_TD, least_squares(outputs_HTV[heads[0]], y_TD)[0], atol=1e-3)


def test_merge_qk_says_how_many_numbers_it_adds() -> None:
    model, notes = model_of(block_spec(heads=3, head_dim=4), block_spec(heads=1, head_dim=HIDDEN)), []

    def weights(model: Transformer) -> int:
        return sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))

    result = rewritten(model, "merge-qk", calibration_of(model, notes=notes), layers=[0])
    more = weights(result) - weights(model)
    assert notes[0] == f"merge-qk: stores {more} numbers MORE than separate queries and keys; it saves with 1 head"
    single = rewritten(model, "merge-qk", calibration_of(model, notes=notes), layers="auto:1")
    assert weights(single) == weights(model) - HIDDEN**2
    assert isinstance(single.structure.blocks[1].mixer, type(model.structure.blocks[1].mixer))
    assert ScoresSpec.parse({"kind": "merged", "num_heads": 1}) == single.structure.blocks[1].mixer.scores


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("drop-value", {}),
        ("drop-projection", {}),
        ("single-head", {"rank": 3}),
        ("prune-heads", {"keep": 1}),
    ],
)
def test_a_trimmed_block_is_fitted_on_the_tokens_that_it_keeps(use: str, options: dict[str, Any]) -> None:
    model = model_of(block_spec(norm=NormSpec(affine=False)))
    calibration = calibration_of(model)
    trimmed = rewritten(model, "trim-last-block")
    result = rewritten(trimmed, use, calibration, **options)
    assert result.structure.blocks[0].leading == 1
    target_BND = seen(model, calibration, 0, "mixer.out")[:, :1]

    def error(model: Transformer) -> float:
        return float((seen(model, calibration, 0, "mixer.out")[:, :1] - target_BND).square().mean())

    whole = rewritten(model, use, calibration, **options)
    assert error(result) < 0.99 * error(whole)
