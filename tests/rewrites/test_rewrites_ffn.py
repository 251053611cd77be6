"""Moments, and rewrites of feed-forwards and of whole blocks, against numpy's own least squares.

T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import activated
from support.rewriting import Oracle, calibration_of, moved, rewritten, seen, stream_weights
from support.tiny import HIDDEN, block_spec, model_of

from compress.model import Transformer
from compress.model.ffns.affine import Affine, Constant, LowRankAffine
from compress.model.ffns.mlp import Mlp, MlpSpec
from compress.model.norms import NormSpec
from compress.rewrites.calibration import Fitting, Moments, roots
from compress.rewrites.drop_blocks import influence

RMS = NormSpec(kind="rms")


def sample(tokens: int, inputs: int, outputs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x (T,I) with correlations and a mean, y (T,O) that depends on it in part."""
    rng = np.random.default_rng(seed)
    turn_II, _ = np.linalg.qr(rng.normal(size=(inputs, inputs)))
    x_TI = rng.normal(size=(tokens, inputs)) @ (turn_II * np.geomspace(0.3, 3, inputs)) @ turn_II.T
    x_TI += rng.normal(size=inputs)
    y_TO = np.tanh(x_TI @ rng.normal(size=(inputs, outputs))) + 0.3 * rng.normal(size=(tokens, outputs)) + 2
    return x_TI, y_TO


def moments_of(x_TI: np.ndarray, y_TO: np.ndarray, parts: int = 1) -> Moments:
    moments = Moments()
    for x, y in zip(np.array_split(x_TI, parts), np.array_split(y_TO, parts), strict=True):
        moments.add(torch.from_numpy(x), torch.from_numpy(y))
    return moments


samples = st.builds(
    sample, st.integers(40, 80), inputs=st.integers(1, 5), outputs=st.integers(1, 5), seed=st.integers(0, 999)
)


@settings(max_examples=30, deadline=None)
@given(data=samples, parts=st.integers(1, 7))
def test_moments_are_those_of_numpy_however_the_tokens_come(data: tuple[np.ndarray, np.ndarray], parts: int) -> None:
    x_TI, y_TO = data
    moments = moments_of(x_TI, y_TO, parts)
    inputs = x_TI.shape[1]
    both = np.atleast_2d(np.cov(np.hstack([x_TI, y_TO]), rowvar=False, bias=True))
    assert moments.count == len(x_TI)
    for mine, expected in (
        (moments.mean_x_I, x_TI.mean(0)),
        (moments.mean_y_O, y_TO.mean(0)),
        (moments.second_II, x_TI.T @ x_TI / len(x_TI)),
        (moments.covariance_II, both[:inputs, :inputs]),
        (moments.cross_IO, both[:inputs, inputs:]),
    ):
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-9)
    assert moments.variance_y == pytest.approx(np.trace(both[inputs:, inputs:]))


@settings(max_examples=30, deadline=None)
@given(data=samples)
def test_the_affine_fit_is_that_of_least_squares(data: tuple[np.ndarray, np.ndarray]) -> None:
    x_TI, y_TO = data
    ones_TI = np.column_stack([x_TI, np.ones(len(x_TI))])
    expected = ones_TI @ np.linalg.lstsq(ones_TI, y_TO, rcond=None)[0]
    fit = moments_of(x_TI, y_TO).fit()
    mine = x_TI @ fit.weight_IO.numpy() + fit.bias_O.numpy()
    spread = float(((y_TO - y_TO.mean(0)) ** 2).sum())
    assert float(((mine - expected) ** 2).sum()) <= 1e-4 * spread
    assert fit.fvu == pytest.approx(float(((y_TO - expected) ** 2).sum()) / spread, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(data=samples, rank=st.integers(1, 5))
def test_the_fit_of_low_rank_is_reduced_rank_regression(data: tuple[np.ndarray, np.ndarray], rank: int) -> None:
    x_TI, y_TO = data
    centred_TI, centred_TO = x_TI - x_TI.mean(0), y_TO - y_TO.mean(0)
    full_IO = np.linalg.lstsq(centred_TI, centred_TO, rcond=None)[0]
    # Izenman 1975: project the unrestricted fit on its leading principal directions.
    directions_RO = np.linalg.svd(centred_TI @ full_IO, full_matrices=False)[2][:rank]
    expected_IO = full_IO @ directions_RO.T @ directions_RO
    fit = moments_of(x_TI, y_TO).fit(rank)
    error, least = (
        float(((centred_TO - centred_TI @ weight_IO) ** 2).sum()) for weight_IO in (fit.weight_IO.numpy(), expected_IO)
    )
    spread = float((centred_TO**2).sum())
    assert error == pytest.approx(least, abs=1e-4 * spread)
    assert fit.fvu == pytest.approx(least / spread, abs=1e-4)
    assert np.linalg.matrix_rank(fit.weight_IO.numpy(), tol=1e-7) <= rank


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 6), rank=st.integers(0, 6), seed=st.integers(0, 99))
def test_roots_of_a_moment_multiply_to_it_and_to_the_identity(size: int, rank: int, seed: int) -> None:
    half = torch.randn(size, min(rank, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moment_II = half @ half.T + 1e-3 * torch.eye(size, dtype=torch.float64)
    root_II, inverse_II = roots(moment_II)
    ridge = 1e-6 * moment_II.diagonal().mean()
    torch.testing.assert_close(root_II @ root_II, moment_II + ridge * torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(root_II @ inverse_II, torch.eye(size, dtype=torch.float64))


def with_affine_mlps(model: Transformer) -> Transformer:
    """The model with hidden units that are all positive, so that each MLP is an affine map."""
    with torch.no_grad():
        for block in model.blocks:
            block.ffn.up.bias[0].fill_(100.0)
            block.ffn.down.weight.mul_(0.1)
    return model


def first_ffn(model: Transformer) -> Any:
    return model.block(0).ffn


def test_affine_mlp_recovers_a_planted_affine_map() -> None:
    mlp = MlpSpec(intermediate_size=9, activation="relu")
    model = with_affine_mlps(model_of(*[block_spec(ffn=mlp, norm=RMS)] * 2))
    result = rewritten(model, "affine-mlp")
    before, after = first_ffn(model), first_ffn(result)
    assert isinstance(before, Mlp) and isinstance(after, Affine)
    expected_OI = before.down.weight @ before.up.weight
    torch.testing.assert_close(after.map.weight, expected_OI, atol=1e-3, rtol=0)
    assert moved(model, result) <= 1e-3


def test_a_planted_map_of_low_rank_is_recovered_by_that_rank() -> None:
    mlp = MlpSpec(intermediate_size=3, activation="relu")
    model = with_affine_mlps(model_of(*[block_spec(ffn=mlp, norm=RMS)] * 2))
    assert moved(model, rewritten(model, "low-rank-affine-mlp", rank=3)) <= 1e-4
    assert moved(model, rewritten(model, "low-rank-affine-mlp", rank=2)) > 1e-3


@pytest.mark.parametrize("residual", ["pre", "post", "parallel"])
@pytest.mark.parametrize("rank", [None, 2])
def test_the_map_in_place_of_an_mlp_is_fitted_on_what_the_mlp_sees_and_gives(residual: str, rank: int | None) -> None:
    model, notes = model_of(block_spec(residual=residual)), []
    calibration = calibration_of(model, notes=notes)
    use, options = ("affine-mlp", {}) if rank is None else ("low-rank-affine-mlp", {"rank": rank})
    result = rewritten(model, use, calibration, **options)
    oracle = Oracle(*(seen(model, calibration, 0, site) for site in ("ffn.in", "ffn.out", "out")), rank=rank)
    np.testing.assert_allclose(seen(result, calibration, 0, "ffn.out"), oracle.fitted_BNO, atol=1e-4)
    assert isinstance(first_ffn(result), Affine if rank is None else LowRankAffine)
    assert notes == [f"{use}: layer 0 leaves {oracle.fvu:.1%} of its feed-forward unexplained"]


def test_drop_mlp_leaves_the_mean() -> None:
    model = model_of(block_spec())
    calibration = calibration_of(model)
    result = rewritten(model, "drop-mlp", calibration)
    ffn = first_ffn(result)
    assert isinstance(ffn, Constant)
    mean_D = weighted_mean(*(seen(model, calibration, 0, site) for site in ("ffn.out", "out")))
    torch.testing.assert_close(ffn.value[0].double(), mean_D, atol=1e-6, rtol=0)


def test_prune_neurons_that_keeps_every_unit_keeps_the_logits() -> None:
    model = model_of(*[block_spec(ffn=MlpSpec(intermediate_size=9))] * 2)
    assert moved(model, rewritten(model, "prune-neurons", calibration_of(model, batches=16), keep=9)) <= 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_prune_neurons_removes_the_units_that_send_nothing_on_or_never_change(bias: bool) -> None:
    model = model_of(block_spec(ffn=MlpSpec(intermediate_size=6, activation="relu", bias=bias)))
    ffn = first_ffn(model)
    with torch.no_grad():
        ffn.down.weight[:, 1] = 0  # sends nothing on
        ffn.up.weight[4] = 0  # never changes
    result = rewritten(model, "prune-neurons", keep=4)
    assert torch.equal(first_ffn(result).up.weight, ffn.up.weight[[0, 2, 3, 5]])
    assert moved(model, result) <= 1e-4
    assert first_ffn(result).down.weight.shape == (HIDDEN, 4)


def test_auto_prunes_where_units_do_nothing() -> None:
    model = model_of(*[block_spec(ffn=MlpSpec(intermediate_size=6))] * 3)
    with torch.no_grad():
        model.block(1).ffn.down.weight[:, :4] = 0  # type: ignore[union-attr]
    result = rewritten(model, "prune-neurons", keep=2, layers="auto:1")
    sizes = [spec.ffn.intermediate_size for spec in result.structure.blocks]  # type: ignore[union-attr]
    assert sizes == [6, 2, 6]
    assert moved(model, result) <= 1e-4


def test_prune_neurons_fits_what_stays_by_least_squares() -> None:
    model, notes = model_of(block_spec(ffn=MlpSpec(intermediate_size=9))), []
    calibration, ffn = calibration_of(model, notes=notes), first_ffn(model)
    result = rewritten(model, "prune-neurons", calibration, keep=4)
    x_TI, y_TO = (seen(model, calibration, 0, site).flatten(0, 1).numpy() for site in ("ffn.in", "ffn.out"))
    up, down = (part.weight.detach().double().numpy() for part in (ffn.up, ffn.down))
    hidden_TF = activated("gelu", x_TI @ up.T + ffn.up.bias[0].detach().double().numpy())
    kept = sorted(np.argsort(-hidden_TF.var(0) * (down**2).sum(0))[:4])
    fit = moments_of(hidden_TF[:, kept], y_TO).fit()
    mine_TO = seen(result, calibration, 0, "ffn.out").flatten(0, 1).numpy()
    np.testing.assert_allclose(mine_TO, hidden_TF[:, kept] @ fit.weight_IO.numpy() + fit.bias_O.numpy(), atol=1e-4)
    assert notes == [f"prune-neurons: layer 0 leaves {fit.fvu:.1%} of its feed-forward unexplained"]


def test_swapping_in_the_same_activation_keeps_the_logits() -> None:
    model = model_of(*[block_spec(ffn=MlpSpec(intermediate_size=9))] * 2)
    assert moved(model, rewritten(model, "swap-activation", calibration_of(model, batches=16), to="gelu")) <= 1e-3


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.booleans(), st.sampled_from(["relu", "silu"]))
def test_swap_activation_fits_the_second_map_by_least_squares(size: int, bias: bool, to: str) -> None:
    model, notes = model_of(block_spec(ffn=MlpSpec(intermediate_size=size, bias=bias))), []
    calibration, ffn = calibration_of(model, notes=notes), first_ffn(model)
    result = rewritten(model, "swap-activation", calibration, to=to)
    assert first_ffn(result).up.weight.equal(ffn.up.weight)
    x_TI, y_TO = (seen(model, calibration, 0, site).flatten(0, 1).numpy() for site in ("ffn.in", "ffn.out"))
    up = ffn.up.weight.detach().double().numpy()
    hidden_TF = activated(to, x_TI @ up.T + ffn.up.bias_or_zero(0).detach().double().numpy())
    fit = moments_of(hidden_TF, y_TO).fit()
    mine_TO = seen(result, calibration, 0, "ffn.out").flatten(0, 1).numpy()
    np.testing.assert_allclose(mine_TO, hidden_TF @ fit.weight_IO.numpy() + fit.bias_O.numpy(), atol=1e-4)
    assert notes == [f"swap-activation: layer 0 leaves {fit.fvu:.1%} of its feed-forward unexplained"]


def sequences(seed: int, count: int, size: int, noise: float) -> tuple[torch.Tensor, ...]:
    """x (B,N,I), y (B,N,O), which is affine in x except for noise, and the residual stream behind it (B,N,O)."""
    rng = np.random.default_rng(seed)
    x_BNI = rng.normal(size=(count, 5, size))
    y_BNO = x_BNI @ rng.normal(size=(size, 4)) + 1 + noise * rng.normal(size=(count, 5, 4))
    return tuple(torch.from_numpy(one) for one in (x_BNI, y_BNO, y_BNO + rng.normal(size=y_BNO.shape)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(3, 6), factor=st.floats(100, 1e4))
def test_first_tokens_of_massive_activations_do_not_spoil_the_fit_of_the_others(
    seed: int, size: int, factor: float
) -> None:
    x_BNI, y_BNO, stream_BND = sequences(seed, 40, size, noise=0.1)
    y_BNO[:, 0] = factor * torch.ones(4)  # as decoders' first tokens have them: large, and not what the map gives
    stream_BND[:, 0] = y_BNO[:, 0]
    fitting, owned = Fitting(), Moments()
    fitting.add(x_BNI, y_BNO, stream_BND)
    owned.add(x_BNI, y_BNO)

    def error(weight_IO: torch.Tensor, bias_O: torch.Tensor) -> float:
        rest_BNO = y_BNO[:, 1:]
        spread = (rest_BNO - rest_BNO.mean((0, 1))).square().sum()
        return float((x_BNI[:, 1:] @ weight_IO + bias_O - rest_BNO).square().sum() / spread)

    fit, plain = fitting.fit(), owned.fit()
    assert error(fit.weight_IO, fit.bias_O) < 0.5
    assert error(plain.weight_IO, plain.bias_O) > 1


@pytest.mark.parametrize("seed", range(8))
def test_where_there_is_nothing_to_learn_a_fit_is_hardly_worse_on_others_than_a_constant(seed: int) -> None:
    x_BNI, _, stream_BND = sequences(seed, 220, 30, noise=0.1)
    y_BNO = torch.from_numpy(np.random.default_rng(seed + 1000).normal(size=stream_BND.shape))
    few, others = Fitting(power=0.0), Fitting(power=0.0)
    few.add(x_BNI[:20], y_BNO[:20], stream_BND[:20])
    others.add(x_BNI[20:], y_BNO[20:], stream_BND[20:])
    fits = few.fit(), few.whole.fit(), few.whole.fit(ridge=1e9)
    unseen, of_least_squares, of_constant = (others.whole.unexplained(one.weight_IO, one.bias_O) for one in fits)
    assert unseen < 1.1 * of_constant < 1.2 < of_least_squares


def test_one_sequence_alone_is_fitted_by_least_squares() -> None:
    x_BNI, y_BNO, stream_BND = sequences(seed=0, count=1, size=2, noise=0.1)
    fitting, plain = Fitting(power=0.0), Moments()
    fitting.add(x_BNI, y_BNO, stream_BND)
    plain.add(x_BNI, y_BNO)
    assert torch.equal(fitting.fit().weight_IO, plain.fit().weight_IO)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e6])
def test_what_never_changes_is_fitted_by_a_constant(value: float) -> None:
    x_TI, (_, y_TO) = np.full((40, 3), value), sample(40, 1, 2, seed=0)
    fit = moments_of(x_TI, y_TO, parts=3).fit()
    np.testing.assert_allclose(x_TI @ fit.weight_IO.numpy() + fit.bias_O.numpy(), np.tile(y_TO.mean(0), (40, 1)))


def test_a_first_token_that_sees_only_itself_can_be_fitted() -> None:
    model = model_of(block_spec(causal=True))
    calibration = calibration_of(model, batches=2, size=4)
    result = rewritten(rewritten(model, "trim-last-block"), "affine-mlp", calibration)
    assert moved(model, result) <= 1e-3


def weighted_mean(x_BND: torch.Tensor, stream_BND: torch.Tensor) -> torch.Tensor:
    weights_BN = torch.from_numpy(stream_weights(stream_BND.numpy()))
    return (x_BND * weights_BN[..., None]).sum((0, 1)) / weights_BN.sum()


@pytest.mark.parametrize("use", ["drop-mlp", "affine-mlp", "prune-neurons", "swap-activation"])
@pytest.mark.parametrize("residual", ["pre", "parallel"])
def test_each_replacement_makes_up_for_what_the_earlier_ones_shifted(use: str, residual: str) -> None:
    model = model_of(*[block_spec(residual=residual)] * 3)
    calibration = calibration_of(model)
    result = rewritten(model, use, calibration, **({"keep": 5} if use == "prune-neurons" else {}))
    for step in range(3):
        after_BND, before_BND = (seen(one, calibration, step, "out") for one in (result, model))
        counts_BND = before_BND if use in ("drop-mlp", "affine-mlp") else torch.ones_like(before_BND)
        means = weighted_mean(after_BND, counts_BND), weighted_mean(before_BND, counts_BND)
        torch.testing.assert_close(*means, atol=1e-5, rtol=0)


def test_a_replacement_before_a_dropped_block_stands_in_for_it() -> None:
    model = model_of(*[block_spec()] * 4)
    calibration = calibration_of(model)
    shorter = rewritten(model, "drop-blocks", calibration, layers=[1, 2])
    result = rewritten(shorter, "drop-mlp", calibration, layers=[0])
    after_BND, before_BND = seen(result, calibration, 0, "out"), seen(model, calibration, 2, "out")
    means = weighted_mean(after_BND, before_BND), weighted_mean(before_BND, before_BND)
    torch.testing.assert_close(*means, atol=1e-5, rtol=0)


def test_a_trimmed_block_is_fitted_on_the_tokens_that_it_keeps() -> None:
    model = model_of(block_spec())
    calibration = calibration_of(model)
    result = rewritten(rewritten(model, "trim-last-block"), "drop-mlp", calibration)
    ffn = first_ffn(result)
    assert isinstance(ffn, Constant)
    mean_D = weighted_mean(*(seen(model, calibration, 0, site)[:, :1] for site in ("ffn.out", "out")))
    torch.testing.assert_close(ffn.value[0].double(), mean_D, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("use", "options"),
    [("affine-mlp", {}), ("low-rank-affine-mlp", {"rank": 3}), ("drop-mlp", {})],
)
def test_auto_takes_the_feed_forward_that_is_explained_best(use: str, options: dict[str, Any]) -> None:
    model = model_of(*[block_spec(ffn=MlpSpec(intermediate_size=9, activation="relu"), norm=RMS)] * 3)
    with torch.no_grad():  # the second one is an affine map of low rank, nearly a constant
        ffn = model.block(1).ffn
        assert isinstance(ffn, Mlp)
        ffn.up.bias[0].fill_(100.0)
        ffn.down.weight.mul_(1e-3)
    result = rewritten(model, use, layers="auto:1", **options)
    changed = [a.ffn != b.ffn for a, b in zip(result.structure.blocks, model.structure.blocks, strict=True)]
    assert changed == [False, True, False]


@pytest.mark.parametrize("planted", [0, 1, 2])
@pytest.mark.parametrize("trim", [False, True])
def test_drop_blocks_drops_the_block_that_does_nearly_nothing(planted: int, trim: bool) -> None:
    model, notes = model_of(*[block_spec()] * 3), []
    with torch.no_grad():
        for name, parameter in model.block(planted).named_parameters():
            if name.startswith(("mixer.values.output", "ffn.down")):
                parameter.mul_(1e-4)
    trimmed = rewritten(model, "trim-last-block") if trim else model
    result = rewritten(trimmed, "drop-blocks", calibration_of(model, notes=notes), layers="auto:1")
    assert notes == [f"drop-blocks: removes blocks [{planted}]"]
    assert [step.origin for step in result.structure.schedule] == [index for index in range(3) if index != planted]
    assert moved(model, result) <= 1e-2
    assert result.num_parameters() < model.num_parameters()


def test_dropped_blocks_leave_the_weights_of_the_others_as_they_are() -> None:
    model = model_of(*[block_spec()] * 4)
    result = rewritten(rewritten(model, "drop-blocks", layers=[1]), "drop-blocks", layers=[1])
    assert [step.origin for step in result.structure.schedule] == [0, 3]
    for mine, theirs in ((0, 0), (1, 3)):
        state = model.block(theirs).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in result.block(mine).state_dict().items())


@torch.no_grad()
def test_block_influence_is_one_minus_the_mean_cosine() -> None:
    model = model_of(*[block_spec()] * 2)
    calibration = calibration_of(model)
    x_BND, y_BND = (seen(model, calibration, step, "out").numpy() for step in (0, 1))
    cosines = (x_BND * y_BND).sum(-1) / np.linalg.norm(x_BND, axis=-1) / np.linalg.norm(y_BND, axis=-1)
    assert influence(model, calibration, [1]) == {1: pytest.approx(1 - cosines.mean(), abs=1e-6)}
