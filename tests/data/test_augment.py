from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import augment


def candidates(x_CHW: np.ndarray, padding: int, flip: bool) -> list[np.ndarray]:
    """Every crop out of numpy's own reflection padding, with its mirror image when flipping: the oracle."""
    _, height, width = x_CHW.shape
    padded = np.pad(x_CHW, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    offsets = range(2 * padding + 1)
    crops = [padded[:, top : top + height, left : left + width] for top in offsets for left in offsets]
    return crops + [crop[:, :, ::-1] for crop in crops] if flip else crops


def batch(size: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.arange(size * channels * height * width, dtype=torch.float32).reshape(size, channels, height, width)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.booleans(), st.integers(0, 2**32), st.data())
def test_each_image_becomes_a_crop_of_its_reflection_padded_self(
    height: int, width: int, channels: int, flip: bool, seed: int, data: st.DataObject
) -> None:
    padding = data.draw(st.integers(0, min(height, width) - 1))
    x = batch(4, height, width, channels)
    y = augment(x, seed=seed, step=data.draw(st.integers(0, 10**6)), flip=flip, padding=padding)
    assert y.shape == x.shape
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        assert any(np.array_equal(after, crop) for crop in candidates(before, padding, flip))


def test_every_shift_and_both_orientations_occur() -> None:
    x = batch(1, 8, 8).expand(1000, -1, -1, -1)
    seen = {image.tobytes() for image in augment(x, seed=0, step=0, flip=True).numpy()}
    assert seen == {np.ascontiguousarray(crop).tobytes() for crop in candidates(x[0].numpy(), 1, True)}


def test_same_seed_and_step_give_the_same_draw_and_others_differ() -> None:
    x = batch(16, 32, 32)
    once = augment(x, seed=3, step=7, flip=True)
    assert torch.equal(once, augment(x, seed=3, step=7, flip=True))
    assert not torch.equal(once, augment(x, seed=3, step=8, flip=True))
    assert not torch.equal(once, augment(x, seed=4, step=7, flip=True))


def test_without_flip_no_digit_is_mirrored() -> None:
    x = batch(64, 28, 28, 1)
    y = augment(x, seed=0, step=0, flip=False, padding=0)
    assert torch.equal(x, y)
    mirrored = (augment(x, seed=0, step=0, flip=True, padding=0) != x).flatten(1).any(1)
    assert 16 < int(mirrored.sum()) < 48


def test_default_padding_is_an_eighth_of_the_height() -> None:
    x = batch(8, 32, 32)
    assert torch.equal(augment(x, seed=1, step=1, flip=False), augment(x, seed=1, step=1, flip=False, padding=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_type_of_the_pixels_is_kept(dtype: torch.dtype) -> None:
    assert augment(torch.ones(2, 3, 8, 8).to(dtype), seed=0, step=0, flip=True).dtype == dtype
