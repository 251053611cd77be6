"""Rewrites on text models: padding never counts, what rotary positions forbid is refused, tables shrink."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rewriting import rewritten
from support.text_models import (
    VOCABULARY,
    decoder,
    encoder,
    padded_calibration,
    plain_calibration,
    sequences,
    text_moved,
)
from torch import Tensor

from compress import zoo
from compress.model import Transformer, load, save
from compress.model.embeds.token import TokenEmbed
from compress.rewrites import Calibration
from compress.rewrites.calibration import input_moments, roots
from compress.rewrites.surgery import attention, value_output_HDD
from compress.tasks import read_checkpoint
from targets.errors import InputError

ROUNDING = 3e-6
#: What is left between two fits of the same tokens, whose sums are taken in another order.
SAME = 1e-4
FITTED: list[tuple[str, dict[str, Any]]] = [
    ("prune-heads", {"keep": 2}),
    ("grouped-heads", {"groups": 1}),
    ("prune-neurons", {"keep": 6}),
    ("affine-mlp", {}),
    ("low-rank-affine-mlp", {"rank": 5}),
    ("drop-mlp", {"layers": [1]}),
    ("low-rank-heads", {"value_rank": 3}),
    ("drop-value", {"layers": [1]}),
    ("drop-projection", {"layers": [1]}),
    ("drop-projection", {"layers": [1], "rank": 2}),
    ("drop-blocks", {"layers": "auto:1"}),
    ("affine-patch", {"layers": [1]}),
    ("low-rank-embedding", {"rank": 5}),
]
WITHOUT_ROTATION: list[tuple[str, dict[str, Any]]] = [
    ("low-rank-heads", {"rank": 3}),
    ("symmetric-qk", {"rank": 4}),
    ("single-head", {"rank": 4}),
    ("trim-vocabulary", {"keep": 20, "special": 2}),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("use", "options"), FITTED)
def test_padding_does_not_count_in_any_fit_of_a_decoder(use: str, options: dict[str, Any], side: str) -> None:
    model = decoder()
    alone = rewritten(model, use, plain_calibration(model), **options)
    assert text_moved(model, alone) > 100 * SAME
    assert text_moved(alone, rewritten(model, use, padded_calibration(model, side), **options)) <= SAME


@pytest.mark.parametrize(("use", "options"), FITTED + WITHOUT_ROTATION)
def test_padding_does_not_count_in_any_fit_of_an_encoder(use: str, options: dict[str, Any]) -> None:
    model = encoder()
    alone = rewritten(model, use, plain_calibration(model), **options)
    assert text_moved(model, alone) > 100 * SAME
    assert text_moved(alone, rewritten(model, use, padded_calibration(model, "right"), **options)) <= SAME


@pytest.mark.parametrize(("use", "options"), WITHOUT_ROTATION[:3])
def test_what_needs_a_fixed_form_of_query_and_key_is_refused_under_rotary_positions(
    use: str, options: dict[str, Any]
) -> None:
    model = decoder()
    with pytest.raises(InputError, match=f"{use} is refused under rotary positions"):
        rewritten(model, use, plain_calibration(model), **options)


@pytest.mark.parametrize("tied", [True, False])
def test_an_rms_norm_folds_without_leaving_a_bias(tied: bool) -> None:
    model = decoder(kv_heads=1, tied=tied)
    result = rewritten(model, "fold-norm", plain_calibration(model))
    assert text_moved(model, result) <= ROUNDING
    assert not [name for name in result.state_dict() if "bias" in name and "output" not in name]
    assert [name for name in result.state_dict() if "norm.weight" in name] == (["final_norm.weight.0"] if tied else [])


@pytest.mark.parametrize("use", ["fold-norm", "fold-value-bias", "drop-key-bias", "merge-qk", "pack-qkv"])
@pytest.mark.parametrize("name", ["encoder", "decoder", "decoder that shares keys"])
def test_exact_rewrites_are_exact_on_text_or_refused(use: str, name: str) -> None:
    model = {"encoder": encoder(), "decoder": decoder()}.get(name) or decoder(kv_heads=1)
    refused = {("fold-norm", "encoder"), ("merge-qk", "decoder"), ("merge-qk", "decoder that shares keys")}
    if (use, name) in refused:
        with pytest.raises(InputError, match=f"{use} is refused"):
            rewritten(model, use, padded_calibration(model, "right"))
        return
    assert text_moved(model, rewritten(model, use, padded_calibration(model, "right"))) <= ROUNDING


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("low-rank-heads", {"value_rank": 4}),
        ("prune-neurons", {"keep": 10}),
        ("low-rank-embedding", {"rank": 12}),
    ],
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 1), (4, 2), (3, 3)])
def test_nothing_is_lost_at_full_size(use: str, options: dict[str, Any], heads: int, kv_heads: int) -> None:
    model = decoder(heads=heads, kv_heads=kv_heads)
    assert text_moved(model, rewritten(model, use, plain_calibration(model), **options)) <= 1e-3


@torch.no_grad()
def test_smaller_values_stay_shared_and_lose_least_over_all_heads_that_share_them() -> None:
    model = decoder(layers=1, kv_heads=1)
    calibration = plain_calibration(model)
    result = rewritten(model, "low-rank-heads", calibration, value_rank=2)
    specs = result.state_specs()
    assert specs is not None and [state.shape for state in specs[0]] == [(1, "past", 4), (1, "past", 2)]
    half_DD = roots(input_moments(model, calibration, [0], "mixer.in")[0].second_II)[0]

    def outputs(of: Transformer) -> Tensor:  # (D,H*D), weighed by what the values read
        return half_DD @ torch.cat(list(value_output_HDD(attention(of.block(0)))), dim=1)

    lost = (outputs(model) - outputs(result)).square().sum()
    assert float(lost) == pytest.approx(float(torch.linalg.svdvals(outputs(model))[2:].square().sum()), rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_table_is_the_best_projection_by_frequency(rank: int, seed: int) -> None:
    model = decoder(layers=1, tied=False)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.embed.table.copy_(torch.randn(VOCABULARY, 12))
    result = rewritten(model, "low-rank-embedding", plain_calibration(model), rank=rank)
    counts_V = torch.ones(VOCABULARY, dtype=torch.float64)
    for ids in sequences():
        for token in ids.flatten().tolist():
            counts_V[token] += 1
    table_VE = model.embed.table.detach().double()
    made_VE = (result.embed.table @ result.embed.factor.weight.T).detach().double()
    root_V1 = counts_V.sqrt()[:, None]
    singular = torch.linalg.svdvals(root_V1 * table_VE)
    error = float((root_V1 * (made_VE - table_VE)).square().sum())
    assert error == pytest.approx(float(singular[rank:].square().sum()), rel=1e-4, abs=1e-4)


def test_the_table_of_a_tied_head_gives_better_logits_than_one_for_the_rows_alone() -> None:
    tied = decoder(layers=1)
    with torch.no_grad():
        tied.final_norm.weight[0].copy_(torch.logspace(0.5, -1.5, 12))  # few directions matter to the head
    untied = decoder(layers=1, tied=False)
    untied.load_state_dict({**tied.state_dict(), "head.output.weight": tied.embed.table.detach()})
    calibration = plain_calibration(tied)
    for_both = rewritten(tied, "low-rank-embedding", calibration, rank=6)
    for_rows = tied.copy()
    rows_alone = rewritten(untied, "low-rank-embedding", plain_calibration(untied), rank=6).embed
    with torch.no_grad():
        for_rows.embed.table.copy_(rows_alone.table @ rows_alone.factor.weight.T)
        errors = [
            sum(float((one({"input_ids": ids}) - tied({"input_ids": ids})).square().sum()) for ids in sequences(seed=7))
            for one in (for_both, for_rows)
        ]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("keep", [10, 20, VOCABULARY])
@torch.no_grad()
def test_dropped_tokens_read_the_most_similar_row_and_kept_ones_their_own(keep: int) -> None:
    model = encoder()
    ids = torch.tensor([[3, 3, 3, 5, 5, 28, 28, 28, 28]])
    calibration = Calibration(model, lambda: iter([{"input_ids": ids}]), note=print)
    result = rewritten(model, "trim-vocabulary", calibration, keep=keep, special=2)
    embed, table_VE = result.embed, model.embed.table
    assert isinstance(embed, TokenEmbed) and embed.row_V is not None
    first = [0, 1, 3, 5, 28]
    kept = sorted(first + [token for token in range(VOCABULARY) if token not in first][: keep - 5])
    assert embed.table.shape == (keep, 12)
    for token in range(VOCABULARY):
        row_E = embed.table[embed.row_V[token]]
        if token in kept:
            assert torch.equal(row_E, table_VE[token])
            continue
        cosines = [float(torch.cosine_similarity(table_VE[token], table_VE[other], dim=0)) for other in kept]
        assert torch.equal(row_E, table_VE[kept[cosines.index(max(cosines))]])
    assert torch.allclose(model({"input_ids": ids}), result({"input_ids": ids}), atol=1e-6)


def test_trimmed_and_factorised_tables_are_saved_and_loaded(tmp_path: Any) -> None:
    model = encoder()
    calibration = plain_calibration(model)
    result = rewritten(model, "trim-vocabulary", calibration, keep=20, special=2)
    result = rewritten(result, "low-rank-embedding", calibration, rank=5)
    save(result, tmp_path)
    again = load(tmp_path)
    assert again.embed.row_V is not None and again.embed.row_V.dtype == torch.int32
    assert text_moved(result, again) == 0


@pytest.mark.parametrize(
    ("use", "options", "model", "fault"),
    [
        ("trim-vocabulary", {"keep": 20, "special": 2}, decoder(), "a language model could not write"),
        ("trim-vocabulary", {"keep": 30, "special": 2}, encoder(), r"keep 30 must be from 2 \(special\) to 29"),
        ("trim-vocabulary", {"keep": 5, "special": 6}, encoder(), "keep 5 must be from 6"),
        ("low-rank-embedding", {"rank": 13}, decoder(), "rank 13 is above the width"),
        ("prune-heads", {"keep": 1}, decoder(kv_heads=1), "share keys and values"),
    ],
)
def test_what_a_table_cannot_be_is_refused(use: str, options: dict[str, Any], model: Transformer, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        rewritten(model, use, plain_calibration(model), **options)


def test_a_table_is_factorised_once_and_trimmed_before() -> None:
    model = encoder()
    once = rewritten(model, "low-rank-embedding", plain_calibration(model), rank=5)
    for use, options in (("low-rank-embedding", {"rank": 4}), ("trim-vocabulary", {"keep": 20, "special": 2})):
        with pytest.raises(InputError, match=f"{use} is refused"):
            rewritten(once, use, plain_calibration(model), **options)


@torch.no_grad()
def test_a_trained_decoder_keeps_its_logits_through_every_exact_rewrite() -> None:
    model = result = read_checkpoint(zoo.locate("zoo:stories260k"), {})
    ids_BN = torch.randint(3, 512, (2, 60), generator=torch.Generator().manual_seed(0))
    calibration = Calibration(model, lambda: iter([{"input_ids": ids_BN}]), note=print)
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "pack-qkv"):
        result = rewritten(result, use, calibration)
    change = (result({"input_ids": ids_BN}) - model({"input_ids": ids_BN})).abs().max()
    assert float(change) <= 1e-4
    assert result.num_parameters() < model.num_parameters()
