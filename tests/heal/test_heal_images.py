"""The images that healing sees: an order by the seed alone, each image once an epoch, no image twice over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.healing import GREY, numbered
from torch import Tensor

from compress.data import ImageDataset
from compress.heal import HealOptions, ImageFeed, images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return numbered(tmp_path_factory.mktemp("images"), 23)


def feed(dataset: ImageDataset, seed: int = 0, rank: int = 0, world: int = 1) -> ImageFeed:
    return ImageFeed(dataset, GREY, seed, torch.device("cpu"), rank, world)


def batch(feed: ImageFeed, step: int, size: int, flip: bool, mixup: bool) -> tuple[dict[str, Tensor], Tensor]:
    return feed.batch(feed.draw(step, HealOptions(batch_size=size, flip=flip, mixup=mixup)))


def labels(feed: ImageFeed, step: int, size: int) -> list[int]:
    return batch(feed, step, size, flip=True, mixup=False)[1].argmax(dim=1).tolist()


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 23), size=st.integers(1, 30), world=st.integers(1, 4), seed=st.integers(0, 99), data=st.data()
)
def test_each_epoch_is_a_permutation_dealt_out_over_the_processes(
    dataset: ImageDataset, count: int, size: int, world: int, seed: int, data: st.DataObject
) -> None:
    chosen = dataset.subset(range(count))
    feeds = [feed(chosen, seed, rank, world) for rank in range(world)]
    steps = -(-3 * count // (size * world))
    dealt = [label for step in range(steps) for each in feeds for label in labels(each, step, size)]
    assert len(dealt) == steps * size * world
    epochs = [dealt[start : start + count] for start in range(0, len(dealt) - count + 1, count)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    step = data.draw(st.integers(0, steps - 1))
    assert labels(feed(chosen, seed, world - 1, world), step, size) == labels(feeds[-1], step, size)


def test_orders_differ_from_epoch_to_epoch_and_from_seed_to_seed(dataset: ImageDataset) -> None:
    orders = [labels(feed(dataset, seed), epoch, 23) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_is_the_same_each_time_it_is_asked_for(dataset: ImageDataset) -> None:
    for mixup in (False, True):
        first = batch(feed(dataset), 5, 8, flip=True, mixup=mixup)[0]["pixel_values"]
        again = batch(feed(dataset), 5, 8, flip=True, mixup=mixup)[0]["pixel_values"]
        other = batch(feed(dataset), 6, 8, flip=True, mixup=mixup)[0]["pixel_values"]
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_images_belong_to_their_labels(dataset: ImageDataset) -> None:
    inputs, labels_BK = batch(feed(dataset), 3, 10, flip=True, mixup=False)
    assert labels_BK.shape == (10, 23)
    assert torch.equal(labels_BK.sum(1), torch.ones(10))
    greys_B = labels_BK @ torch.arange(23.0) / 255
    torch.testing.assert_close(inputs["pixel_values"], greys_B[:, None, None, None].expand(10, 1, 8, 8))


def test_mixtures_lie_between_two_images_and_their_labels_alike(dataset: ImageDataset) -> None:
    order = np.array(labels(feed(dataset), 3, 10)) / 255
    inputs, labels_BK = batch(feed(dataset), 3, 10, flip=True, mixup=True)
    greys_B = labels_BK @ torch.arange(23.0) / 255
    torch.testing.assert_close(inputs["pixel_values"], greys_B[:, None, None, None].expand(10, 1, 8, 8))
    torch.testing.assert_close(labels_BK.sum(1), torch.ones(10))
    values = inputs["pixel_values"].numpy()
    assert np.ptp(values, axis=(1, 2, 3)).max() == 0
    low, high = np.minimum(order, order[::-1]), np.maximum(order, order[::-1])
    mixed = values[:, 0, 0, 0]
    assert ((low - 1e-6 <= mixed) & (mixed <= high + 1e-6)).all()
    shares = (mixed - order) / np.where(order[::-1] == order, 1, order[::-1] - order)
    assert len(set(shares.round(4))) > 5


def test_processes_augment_differently(dataset: ImageDataset) -> None:
    mixtures = [
        batch(feed(dataset, rank=rank, world=2), 0, 8, flip=False, mixup=True)[0]["pixel_values"] for rank in (0, 1)
    ]
    assert not torch.equal(*mixtures)


def test_large_sets_are_decoded_as_they_are_needed_and_give_the_same_batches(
    dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = batch(feed(dataset), 2, 9, flip=False, mixup=False)[0]["pixel_values"]
    monkeypatch.setattr(images, "HELD_BYTES", 0)
    decoded = batch(feed(dataset), 2, 9, flip=False, mixup=False)[0]["pixel_values"]
    assert torch.equal(held, decoded)


@pytest.mark.parametrize("size", [1, 10, 23, 100])
def test_plain_images_come_once_in_their_order(dataset: ImageDataset, size: int) -> None:
    parts = feed(dataset).plain(size)
    assert all(len(part["pixel_values"]) <= size for part in parts)
    values = torch.cat([part["pixel_values"] for part in parts])[:, 0, 0, 0]
    torch.testing.assert_close(values, torch.arange(23) / 255)
