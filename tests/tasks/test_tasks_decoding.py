"""What stages know of causal models: the state that devices carry, inputs from the start, few golden tokens."""

from __future__ import annotations

import numpy as np
import pytest

from compress import tasks, zoo
from compress.model import Structure
from compress.tasks import read_checkpoint
from compress.tasks.decoding import GOLDEN_TOKENS, Decoding
from compress.tasks.feeding import fitted
from compress.tasks.task import DataChoice
from runtime.bundles.manifest import Tensor

CACHE = ("batch", 4, "past", 8)


@pytest.fixture(scope="module")
def structure() -> Structure:
    folder = zoo.locate("zoo:stories260k")
    return read_checkpoint(folder, tasks.get("causal-lm").preprocessing(folder, print)).structure


@pytest.fixture(scope="module")
def task() -> Decoding:
    found = tasks.get("causal-lm")
    assert isinstance(found, Decoding)
    return found


def test_the_manifest_lists_every_cache(task: Decoding, structure: Structure) -> None:
    states = [one.declared for one in task.skeleton(structure).flat]
    assert [(one.past, one.present) for one in states[:2]] == [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.0.value", "present.0.value"),
    ]
    assert len(states) == 10
    assert {one.shape for one in states} == {CACHE}
    assert task.graph_outputs(structure) == ("logits", *(one.present for one in states))


def test_a_graph_is_checked_at_prompts_at_single_tokens_and_behind_a_past(task: Decoding, structure: Structure) -> None:
    graph = task.graph_inputs(structure, seed=0)
    sizes = [(*case["input_ids"].shape, case["past_key_values.0.key"].shape[2]) for case in graph.cases]
    assert sizes == [(1, 7, 0), (2, 1, 5), (3, 4, 2), (1, 1, 64)]
    assert all(
        case["attention_mask"].shape[1] == chunk + past
        for case, (_, chunk, past) in zip(graph.cases, sizes, strict=True)
    )
    assert graph.dynamic["attention_mask"] == {0: "batch", 1: "total"}


def test_samples_are_whole_sequences_behind_an_empty_past(task: Decoding, structure: Structure) -> None:
    choice = DataChoice("zoo:stories", limit=3, skip_corrupt=False, seed=0)
    data = task.open(choice, "evaluation", (), structure.preprocessing, zoo.locate("zoo:stories260k"))
    inputs = next(iter(data.batches(3)))
    real_BN = inputs["attention_mask"].astype(bool)
    for row, mask_N in enumerate(real_BN):
        assert inputs["position_ids"][row][mask_N].tolist() == list(range(mask_N.sum()))
    graph = [Tensor("input_ids", "int64", ("batch", "chunk")), Tensor("past_key_values.4.value", "float32", CACHE)]
    assert fitted("model.onnx", inputs, graph)["past_key_values.4.value"].shape == (3, 4, 0, 8)
    golden = task.shortened(inputs)
    assert golden["input_ids"].shape == golden["attention_mask"].shape == (3, GOLDEN_TOKENS)
    assert np.array_equal(golden["input_ids"], inputs["input_ids"][:, :GOLDEN_TOKENS])
