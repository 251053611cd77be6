"""Which tokens there are: pooling in the grid, and the original's tensors for the tokens that are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.tiny import block_spec, images, model_of

from compress.model import Transformer
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.reducers.first import First, FirstSpec
from compress.model.reducers.grid_mean import GridMean, GridMeanSpec
from compress.model.sequence import Context, Tokens, aligned, aligned_rows
from targets.errors import InputError

#: Five tokens in front of 4 x 6 patches.
EMBED = PatchEmbedSpec(channels=2, image_size=(8, 12), patch_size=(2, 2), prefix_tokens=2)
POOL = GridMeanSpec(kept=2, rows=4, columns=6, size=2)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(x_BND: np.ndarray, kept: int, rows: int, columns: int, size: int) -> np.ndarray:
    """The tokens in front, then the mean of each cell, patch by patch."""
    left = [x_BND[:, token] for token in range(kept)]
    for top in range(0, rows, size):
        for side in range(0, columns, size):
            places = [kept + (top + y) * columns + side + x for y in range(size) for x in range(size)]
            left.append(sum(x_BND[:, place] for place in places) / size**2)
    return np.stack(left, axis=1)


@settings(max_examples=25, deadline=None)
@given(kept=st.integers(0, 3), down=st.integers(1, 4), across=st.integers(1, 4), size=st.integers(2, 3))
def test_each_cell_of_the_grid_becomes_its_mean(kept: int, down: int, across: int, size: int) -> None:
    rows, columns = down * size, across * size
    x_BND = random(2, kept + rows * columns, 3)
    given_BRD = GridMean(kept, rows, columns, size)(x_BND)
    np.testing.assert_allclose(given_BRD, cells(x_BND.numpy(), kept, rows, columns, size), atol=1e-12)


def test_cells_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(ValidationError, match="a grid of 7 x 8 does not divide into cells of 2 x 2"):
        GridMeanSpec(kept=1, rows=7, columns=8, size=2)


@pytest.mark.parametrize("residual", ["pre", "post", "parallel"])
@torch.no_grad()
def test_a_pooled_model_is_its_blocks_with_the_means_between(residual: str) -> None:
    plain = block_spec(residual=residual)
    model = model_of(plain, plain.replace(reducer=POOL), plain, embed=EMBED).double()
    inputs = {"pixel_values": images(model)["pixel_values"].double()}
    whole = model_of(plain, plain, plain, embed=EMBED).double()
    x_BND, context = whole.embed(inputs)
    for index in range(3):
        x_BND, _ = whole.block(index)(x_BND, 0, context)
        if index == 1:
            x_BND = torch.from_numpy(cells(x_BND.numpy(), 2, 4, 6, 2))
    assert whole.final_norm is not None
    expected = whole.head(whole.final_norm(whole.head.select(x_BND)), context, whole.embed)["logits"]
    torch.testing.assert_close(model(inputs), expected, atol=1e-12, rtol=0)


def outputs(model: Transformer) -> list[Tokens]:
    """What leaves each block."""
    seen: list[Tokens] = []
    with torch.no_grad():
        model(images(model), lambda step, site, tokens: seen.append(tokens) if site == "out" else None)
    return seen


def test_the_originals_tensor_is_pooled_and_cut_as_the_models_tokens_are() -> None:
    plain = block_spec()
    original = outputs(model_of(*[plain] * 3, embed=EMBED))
    reducers = None, POOL, FirstSpec(count=1)
    model = outputs(model_of(*[plain.replace(reducer=reducer) for reducer in reducers], embed=EMBED))
    assert [tokens.x_BND.shape[1] for tokens in model] == [26, 8, 1]
    expected = [
        original[0].x_BND.numpy(),
        cells(original[1].x_BND.numpy(), 2, 4, 6, 2),
        original[2].x_BND[:, :1].numpy(),
    ]
    for theirs, mine, wanted in zip(original, model, expected, strict=True):
        np.testing.assert_allclose(aligned(theirs, mine.context), wanted, atol=1e-6)


def test_a_pooled_original_is_the_measure_of_what_is_pooled_further_or_trimmed_alike() -> None:
    pool, again = GridMean(1, 4, 4, 2), GridMean(1, 2, 2, 2)
    x_BND = random(2, 17, 3)
    once = Tokens(x_BND, Context()).reduced(pool)
    assert once.x_BND.shape == (2, 5, 3)
    np.testing.assert_allclose(
        aligned(once, Context().reduced(pool).reduced(again)), once.reduced(again).x_BND, atol=1e-12
    )
    # The class token is the same one, whether the patches were pooled before they went or not.
    cut = Tokens(x_BND, Context()).reduced(First(1))
    assert torch.equal(aligned(cut, Context().reduced(pool).reduced(First(1))), x_BND[:, :1])


def test_tokens_that_the_original_does_not_have_apart_are_refused() -> None:
    pooled = Tokens(random(2, 17, 3), Context()).reduced(GridMean(1, 4, 4, 2))
    with pytest.raises(InputError, match=r"tokens went through GridMean.*the model's through nothing"):
        aligned(pooled, Context())
    with pytest.raises(InputError, match="cannot be held against each other"):
        aligned(pooled, Context().reduced(GridMean(1, 4, 4, 4)))


def test_attention_rows_are_averaged_over_queries_and_summed_over_keys() -> None:
    rows_BHNM = random(2, 3, 17, 17).softmax(dim=-1)
    pool, plain = Context().reduced(GridMean(1, 4, 4, 2)), Context()
    given = aligned_rows(rows_BHNM, (plain, plain), (pool, pool)).numpy()
    np.testing.assert_allclose(given.sum(-1), np.ones((2, 3, 5)), atol=1e-12)
    keys = cells(rows_BHNM.numpy().reshape(6 * 17, 17, 1), 1, 4, 4, 2)[..., 0] * [1, 4, 4, 4, 4]
    wanted = cells(keys.reshape(6, 17, 5), 1, 4, 4, 2).reshape(2, 3, 5, 5)
    np.testing.assert_allclose(given, wanted, atol=1e-12)
    first = plain.reduced(First(2))
    assert torch.equal(aligned_rows(rows_BHNM, (plain, plain), (first, plain)), rows_BHNM[:, :, :2])


def test_masks_and_places_follow_the_tokens() -> None:
    mask_BN = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    context = Context(mask_BN, torch.arange(5)[None]).reduced(GridMean(1, 2, 2, 2))
    assert context.mask_BM is not None and context.positions_BN is not None
    assert context.mask_BM.tolist() == [[True, True], [True, False]]
    assert context.positions_BN.tolist() == [[0.0, 2.5]]


def test_a_reducer_works_once_and_leaves_no_recurrent_form() -> None:
    with pytest.raises(ValidationError, match="a block that is looped cannot have a reducer"):
        block_spec(loops=2, reducer=POOL)
    causal = block_spec(causal=True)
    assert model_of(causal).state_specs() is not None
    assert model_of(causal.replace(reducer=POOL), embed=EMBED).state_specs() is None


def test_older_files_name_the_number_of_tokens_that_are_kept() -> None:
    spec = block_spec(keep_tokens=2)
    assert spec.reducer == FirstSpec(count=2) and spec.leading == 2
    assert type(spec).model_validate({**spec.model_dump(mode="json"), "keep_tokens": None}) == spec
    assert block_spec(keep_tokens=None) == block_spec()
    with pytest.raises(ValidationError, match="greater than 0"):
        block_spec(keep_tokens=0)
