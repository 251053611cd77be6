"""A live model of transformers with its processor, labelled images, and one run of both from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.checkpoints import saved
from support.jobs import in_haste

import edgepress
from compress.pipeline.events import Event


class Run(NamedTuple):
    """What went in, what came out, and the events on the way."""

    model: Any
    processor: Any
    data: tuple[np.ndarray, np.ndarray]
    result: edgepress.Compressed
    events: list[Event]


def images(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [S, 8, 8, 3] of noise, each class with a tint of its own, and labels [S] of five classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    tints = np.random.default_rng(0).integers(0, 192, (5, 1, 1, 3))
    return (tints[labels] + generator.integers(0, 64, (count, 8, 8, 3))).astype(np.uint8), labels


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model and its processor."""
    from transformers import ViTImageProcessor

    model = saved(tmp_path_factory.mktemp("live"), "vit")
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    fit_head(model, processor)
    return model, processor


def fit_head(model: Any, processor: Any) -> None:
    """Least squares on other images than those of the tests: a head that tells most tints apart."""
    pixels, labels = images(400, seed=1)
    with torch.no_grad():
        inputs = processor(list(pixels), return_tensors="pt")
        features_SD = model.vit(**inputs).last_hidden_state[:, 0]
        rows_SD = torch.cat([features_SD, torch.ones(len(labels), 1)], dim=1)
        wanted_SC = 8.0 * torch.eye(5)[torch.from_numpy(labels)]
        weights_DC = torch.linalg.lstsq(rows_SD, wanted_SC).solution
        model.classifier.weight.copy_(weights_DC[:-1].T)
        model.classifier.bias.copy_(weights_DC[-1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache that all tests of this folder share."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.getbasetemp() / "library-cache"))
    yield


@pytest.fixture(scope="session")
def run(live: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole way in fp32 without changes of the architecture: a pass without luck."""
    events: list[Event] = []
    with in_haste(tmp_path_factory.getbasetemp() / "library-cache"):
        data = images()
        result = edgepress.compress(
            live[0],
            data,
            processor=live[1],
            target="cpu",
            recipe="identity",
            settings={"precision.mode": "fp32", "calibrate.samples": 32, "calibrate.held_out": 32},
            max_drop=6,
            out=tmp_path_factory.mktemp("run") / "out",
            progress=events.append,
        )
    return Run(*live, data, result, events)
