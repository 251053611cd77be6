"""What rewrites take at the ends of their ranges, how they divide what they are given, and what their lines say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rewriting import calibration_of, rewritten
from support.text_models import decoder, encoder, plain_calibration
from support.tiny import HIDDEN, block_spec, model_of
from support.translators import translator, translator_calibration

from compress.model.embeds.patch import PatchEmbedSpec
from compress.rewrites import parse_options, run_rewrite
from compress.rewrites.affine_patch import _runs
from compress.rewrites.linformer import _grid_pools
from compress.rewrites.search_range import counts, head_count, head_size, key_head_count
from compress.rewrites.tie_layers import TieLayers, _assignment
from compress.rewrites.trim_vocabulary import TrimVocabulary, _kept
from targets.errors import InputError

PLAIN = block_spec()
BARE = PLAIN.replace(mixer=None, mixer_norm=None)


def test_a_search_counts_different_parts_of_what_is_there_and_never_all_of_it() -> None:
    assert counts(8, 0.5, 0.25, 1.0, 0.01, 0.24) == [4, 2, 1]
    assert counts(1, 0.5) == []


def test_a_search_asks_the_first_layer_that_has_attention() -> None:
    structure = model_of(BARE, block_spec(heads=4, kv_heads=2, head_dim=3)).structure
    assert (head_size(structure), head_count(structure), key_head_count(structure)) == (3, 4, 2)
    without = model_of(BARE).structure
    assert (head_size(without), head_count(without), key_head_count(without)) == (None, None, None)


@pytest.mark.parametrize(
    ("layers", "runs"),
    [("all", [(0, 2)]), ("auto:1", [(0, 0), (1, 1), (2, 2)]), ("auto:2", [(0, 1), (1, 2)]), ([1, 0], [(0, 1)])],
)
def test_the_runs_that_one_map_may_replace_reach_from_the_first_layer_to_the_last(layers: Any, runs: Any) -> None:
    assert _runs(layers, model_of(PLAIN, PLAIN, PLAIN)) == runs


@pytest.mark.parametrize("layers", ["auto:4", [2, 3], [-1, 0], [0, 2]])
def test_runs_with_gaps_or_beyond_the_model_are_refused(layers: Any) -> None:
    with pytest.raises(InputError, match="affine-patch: layers"):
        _runs(layers, model_of(PLAIN, PLAIN, PLAIN))


@pytest.mark.parametrize("layers", ["auto:0", "auto:x", "auto:", "some", [], [1, 1], [True], 3])
def test_layers_that_say_nothing_are_refused(layers: Any) -> None:
    with pytest.raises(InputError, match="layers"):
        parse_options({"use": "drop-mlp", "layers": layers})


@pytest.mark.parametrize(
    ("grid", "pools", "wanted"),
    [
        ((4, 2), 2, [0, 0, 0, 0, 1, 1, 1, 1]),
        ((2, 4), 2, [0, 0, 1, 1, 0, 0, 1, 1]),
        ((2, 3), 3, [0, 1, 2, 0, 1, 2]),
        ((4, 2), 1, [0] * 8),
        ((4, 2), 5, "do not divide"),
        ((4, 2), 8, "do not divide"),
    ],
)
def test_pools_are_laid_over_a_grid_in_its_own_proportions(grid: Any, pools: int, wanted: Any) -> None:
    embed = PatchEmbedSpec(channels=1, image_size=(2 * grid[0], 2 * grid[1]), patch_size=(2, 2))
    if isinstance(wanted, str):
        with pytest.raises(InputError, match=wanted):
            _grid_pools(embed, pools)
        return
    assert _grid_pools(embed, pools).tolist() == [0, *(1 + pool for pool in wanted)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"grouping": "sequence", "blocks": 2}, [0, 0, 0, 1, 1]),
        ({"grouping": "sequence", "blocks": 3}, [0, 0, 1, 1, 2]),
        ({"grouping": "cycle", "blocks": 2}, [0, 1, 0, 1, 0]),
        ({"grouping": "middle", "blocks": 1, "untied": 1}, [0, 1, 1, 1, 2]),
        ({"grouping": "middle", "blocks": 2, "untied": 1}, [0, 1, 2, 1, 3]),
    ],
)
def test_five_layers_are_tied_in_these_groups(options: dict[str, Any], wanted: list[int]) -> None:
    assert _assignment(TieLayers(**options), 5) == wanted


def test_more_shared_blocks_than_layers_between_the_ends_are_refused() -> None:
    with pytest.raises(InputError, match="4 shared blocks do not fit into the 3 layers that are left of 5"):
        _assignment(TieLayers(grouping="middle", blocks=4, untied=1), 5)


def test_the_rows_that_stay_are_the_special_ones_the_frequent_ones_and_then_the_lowest() -> None:
    seen_V = torch.tensor([0, 0, 3, 0, 5, 0])
    assert _kept(seen_V, TrimVocabulary(keep=4, special=1)).tolist() == [0, 1, 2, 4]
    assert _kept(seen_V, TrimVocabulary(keep=2, special=2)).tolist() == [0, 1]


@pytest.mark.parametrize(("keep", "special"), [(2, 2), (29, 2)])
def test_a_table_may_keep_its_special_rows_alone_or_all_rows(keep: int, special: int) -> None:
    model = encoder()
    result = rewritten(model, "trim-vocabulary", plain_calibration(model), keep=keep, special=special)
    assert len(result.embed.table) == keep  # type: ignore[union-attr, arg-type]
    with pytest.raises(InputError, match=r"keep 1 must be from 2 \(special\) to 29"):
        rewritten(model, "trim-vocabulary", plain_calibration(model), keep=1, special=2)


def test_a_feed_forward_of_full_rank_is_the_affine_one_and_a_higher_rank_is_refused() -> None:
    model = model_of(PLAIN)
    calibration = calibration_of(model)
    full = rewritten(model, "low-rank-affine-mlp", calibration, rank=HIDDEN).block(0).ffn
    affine = rewritten(model, "affine-mlp", calibration).block(0).ffn
    product = full.up.weight @ full.down.weight  # type: ignore[union-attr, operator]
    torch.testing.assert_close(product, affine.map.weight, atol=1e-5, rtol=1e-4)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=f"rank {HIDDEN + 1} is above the hidden size {HIDDEN}"):
        rewritten(model, "low-rank-affine-mlp", calibration, rank=HIDDEN + 1)


def test_what_a_table_of_low_rank_loses_is_said_in_parts_of_it() -> None:
    model, notes = decoder(), list[str]()
    calibration = plain_calibration(model)
    width = model.structure.hidden_size
    calibration = type(calibration)(model, calibration.batches, notes.append)
    lost = []
    for rank in (width, width // 2, 1):
        rewritten(model, "low-rank-embedding", calibration, rank=rank)
        lost.append(float(notes[-1].split(" loses ")[1].split("%")[0]))
    assert lost[0] == 0 < lost[1] < lost[2] < 100


def test_which_stack_is_meant_is_asked_where_there_are_two_and_refused_where_there_is_one() -> None:
    method, options = parse_options({"use": "fold-norm"})
    two, one = translator(), model_of(PLAIN)
    with pytest.raises(InputError, match="this model has an encoder and a decoder; say which: stack = "):
        run_rewrite(method, options, two, translator_calibration(two))
    with pytest.raises(InputError, match="this model has one stack; leave stack out"):
        run_rewrite(method, options, one, calibration_of(one), "decoder")


def test_an_encoder_whose_table_is_factorised_already_is_refused() -> None:
    model = translator()
    calibration = translator_calibration(model)
    result = rewritten(model, "low-rank-embedding", calibration, rank=4)
    with pytest.raises(InputError, match="the table that both stacks read is factorised already"):
        run_rewrite(*parse_options({"use": "drop-key-bias"}), result, calibration, "encoder")


@pytest.mark.parametrize("rope", [False, True])
def test_folding_a_norm_gives_keys_a_bias_only_where_softmax_does_not_remove_it(rope: bool) -> None:
    result = rewritten(model_of(block_spec(key_bias=False, rope=rope, head_dim=4)), "fold-norm")
    assert any("key.bias" in name for name in result.state_dict()) == rope


@pytest.mark.parametrize("size", [(4, 12), (6, 8)])
def test_patches_are_pooled_where_both_sides_divide(size: tuple[int, int]) -> None:
    embed = PatchEmbedSpec(channels=2, image_size=size, patch_size=(2, 4))
    model = model_of(PLAIN, PLAIN, embed=embed)
    with pytest.raises(InputError, match="does not divide into cells of 2 x 2"):
        rewritten(model, "pool-tokens", after=0)


def test_a_layer_without_attention_is_named_as_one() -> None:
    with pytest.raises(InputError, match=r"merge-qk is refused: .* a chosen layer has no mixer"):
        rewritten(model_of(BARE), "merge-qk")


@pytest.mark.parametrize("use", ["fold-value-bias", "drop-key-bias"])
def test_biases_are_folded_beside_layers_without_attention(use: str) -> None:
    result = rewritten(model_of(BARE, PLAIN), use)
    assert result.structure.blocks[0].mixer is None
    assert not [name for name in result.state_dict() if ("value.bias" if "value" in use else "key.bias") in name]
