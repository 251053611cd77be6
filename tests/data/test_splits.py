"""Nothing is fitted, quantized or healed on what judges it: neither on evaluation samples nor on those kept aside.

One run up to the files that ship, on data full of copies, with every access to samples recorded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import targets
from compress.data import load
from compress.pipeline import Cache, Runner
from compress.recipe import parse
from compress.stages import export, precision, rewrite
from compress.stages.artifacts import CalibrationSet
from compress.stages.graph import Job, build_graph
from compress.tasks.image_classification import ImageClassification
from compress.tasks.images import PreparedImages

Contents = set[tuple[int, ...]]
RECIPE: dict[str, Any] = {
    "rewrite": [{"use": "low-rank-heads", "rank": 8}],
    "calibrate": {"samples": 40, "held_out": 24},
    "heal": {"steps": 2, "batch_size": 8, "eval_every": 1, "flip": False},
    "precision": {"mode": "fp32"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 test images; a training set that has 20 of them too, and each of its own three times."""
    images = load("zoo:mnist-calibration", limit=140)
    pixels, labels = np.stack(images.raw())[..., 0], images.labels
    order = np.random.default_rng(0).permutation(140)
    test, own = order[:60], order[60:]
    train = np.concatenate([own, own, own, test[:20]])
    path = tmp_path_factory.mktemp("data") / "a.npz"
    np.savez(path, x_test=pixels[test], y_test=labels[test], x_train=pixels[train], y_train=labels[train])
    return path


@pytest.fixture(scope="module")
def used(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Contents]]]:
    """Stage -> contents of the samples that each call took for fitting or healing; `fit` and `held_out`: the choice."""
    taken: dict[str, list[Contents]] = defaultdict(list)

    def contents(prepared: PreparedImages, indices: Any) -> Contents:
        return set(prepared.subset(indices).fingerprints())

    def recorded(name: str, real: Any) -> Any:
        def call(prepared: PreparedImages, indices: Any, *more: Any) -> Any:
            taken[name].append(contents(prepared, indices))
            return real(prepared, indices, *more)

        return call

    feed = ImageClassification.feed

    def fed(task: ImageClassification, prepared: PreparedImages, *more: Any, **named: Any) -> Any:
        taken["heal"].append(set(prepared.fingerprints()))
        return feed(task, prepared, *more, **named)

    cache = Cache(tmp_path_factory.mktemp("cache"))
    recipe = parse({"model": {"source": "zoo:vit-mnist"}, "data": {"source": str(data)}, **RECIPE}, "test")
    graph = build_graph(Job(recipe, "test", targets.load("cpu"), 0, cache.root / "digests.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "calibration_batches", recorded("rewrite", rewrite.calibration_batches))
        patch.setattr(export, "calibration_batches", recorded("export", export.calibration_batches))
        patch.setattr(precision, "batches_of", recorded("precision", precision.batches_of))
        patch.setattr(ImageClassification, "feed", fed)
        patch.setenv("EDGEPRESS_CACHE", str(cache.root))
        made = Runner(graph, cache).run(until="precision")
    chosen = made["calibrate"]
    assert isinstance(chosen, CalibrationSet)
    healing = load(str(data), part="healing")
    for use in ("fit", "held_out"):
        taken[use].append(set(healing.subset(chosen.indices(use)).fingerprints()))
    yield taken


def test_no_stage_learns_from_an_evaluation_sample(data: Path, used: dict[str, list[Contents]]) -> None:
    judged = set(load(str(data), part="evaluation").fingerprints())
    assert len(judged) == 60 and used.keys() >= {"rewrite", "precision", "heal"}
    assert not any(judged & taken for calls in used.values() for taken in calls)


def test_what_is_kept_aside_is_kept_aside_with_all_its_copies(used: dict[str, list[Contents]]) -> None:
    (fit,), (held_out,) = used["fit"], used["held_out"]
    assert len(held_out) == 24 and fit and not fit & held_out


def test_closed_forms_and_quantizers_see_what_they_may_fit_on(used: dict[str, list[Contents]]) -> None:
    (fit,), (held_out,) = used["fit"], used["held_out"]
    assert all(taken == fit for taken in [*used["rewrite"][::2], *used["export"]])
    assert all(fit <= every and not every & held_out for every in used["rewrite"][1::2]), "what is only counted"
    fitted, compared = used["precision"][:2]
    assert fitted == fit and compared and compared <= held_out


def test_healing_learns_from_nothing_that_measures_it(used: dict[str, list[Contents]]) -> None:
    (held_out,) = used["held_out"]
    learned, watched = used["heal"][:2]
    assert watched == held_out and learned and not learned & held_out
    assert len(learned) == 80 - 24  # all the rest
