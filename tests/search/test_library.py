"""What was tried becomes options with prices, and combinations of them become predictions and whole models."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from support.rewriting import rewritten
from support.tiny import block_spec, model_of

from compress.model import Structure, Transformer
from compress.model.reducers.first import FirstSpec
from compress.search.choices import Choice
from compress.search.clock import corrected
from compress.search.front import Budget, Predictor
from compress.search.library import Library
from compress.search.shapes import COPIES, Probe
from compress.search.trial import Trial

MODEL = model_of(*[block_spec(heads=2, head_dim=6)] * 3)
TRIED: list[tuple[str, int, dict[str, Any], float]] = [
    ("affine-mlp", 0, {}, 0.2),
    ("affine-mlp", 1, {}, 0.1),
    ("affine-mlp", 2, {}, 0.3),
    ("prune-heads", 1, {"keep": 1}, 0.05),
    ("drop-blocks", 1, {}, 0.5),
]


@cache
def library() -> Library:
    trials = []
    for use, layer, options, drift in TRIED:
        choice = Choice(use=use, options=options, layer=layer)
        structure = rewritten(MODEL, use, layers=[layer], **options).structure
        trials.append(Trial((choice.model_dump(mode="json"),), "", structure.model_dump(mode="json"), drift))
    refused = Choice(use="linformer", options={"pools": 7}, layer=0).model_dump(mode="json")
    return Library(MODEL.structure, [*trials, Trial((refused,), refused="7 pools do not fit")], {})


def parameters(probe: Probe) -> float:
    with torch.device("meta"):
        return float(Transformer(Structure.model_validate(probe.structure)).num_parameters())


@cache
def predictor() -> Predictor:
    """With parameters for costs, and as if two threads were twice as fast."""
    table = {one.id: {"ms 1": 2 * parameters(one), "ms 2": parameters(one)} for one in library().probes()}
    return Predictor(library(), {name: {**row, "bytes": row["ms 2"]} for name, row in table.items()})


def test_every_half_may_stay_and_what_was_refused_is_no_option() -> None:
    kept = [option.slots for option in library().options if option.choice is None]
    assert kept == [(f"{layer}.{half}",) for layer in range(3) for half in ("mixer", "ffn")]
    tried = [option.choice.use for option in library().options if option.choice is not None]
    assert tried == [use for use, *_ in TRIED]


def test_halves_that_are_alike_are_timed_once_and_those_of_a_trimmed_last_layer_apart() -> None:
    halves = [one for one in library().probes() if one.copies]
    # attention, its pruned form, feed-forward, affine map; and of the last layer attention, feed-forward, affine map
    assert sorted(one.copies for one in halves) == [1] * 3 + [COPIES] * 4
    for one in halves:
        blocks = Structure.model_validate(one.structure).blocks
        assert (one.copies == 1) == isinstance(blocks[0].reducer, FirstSpec)


def test_a_combination_costs_what_its_whole_model_has() -> None:
    """Parameters add up exactly, so that the predicted ones can be counted."""
    made = predictor()
    for frame, solution in library().random(12, seed=0):
        whole = parameters(library().composed(library().frames[frame], solution, "whole"))
        ms, size = made.summed(frame, solution)
        assert (ms, size) == (pytest.approx(whole), pytest.approx(whole))


def test_the_whole_model_of_the_originals_is_the_original() -> None:
    composed = library().composed(library().frames[0], library().originals, "whole")
    assert composed.structure["blocks"] == MODEL.structure.model_dump(mode="json")["blocks"]
    assert made_of(composed) == 3


def made_of(probe: Probe) -> int:
    return len(Structure.model_validate(probe.structure).blocks)


def test_a_layer_that_goes_is_missing_from_the_whole_model() -> None:
    gone = next(index for index, one in enumerate(library().options) if one.choice and one.choice.use == "drop-blocks")
    rest = [index for index in library().originals if library().options[index].layer != 1]
    assert made_of(library().composed(library().frames[0], tuple(sorted([gone, *rest])), "whole")) == 2


def test_the_best_within_a_budget_keeps_it_and_more_budget_is_never_worse() -> None:
    made = predictor()
    least = made.cheapest()[0].ms
    whole = made.candidate(0, library().originals)
    drifts = []
    for ms in (least, (least + whole.ms) / 2, whole.ms):
        (best,) = made.best(Budget(ms=ms * 1.0001))
        assert best.ms <= ms * 1.0001
        drifts.append(best.drift)
    assert drifts == sorted(drifts, reverse=True) and drifts[-1] == 0
    assert made.best(Budget(ms=least * 0.9)) == []


def test_pairs_count_where_both_are_chosen() -> None:
    first, second = (Choice(use="affine-mlp", options={}, layer=layer).label for layer in (0, 1))
    known = Library(library().clean, library().trials, {(first, second): 5.0})
    made = Predictor(known, predictor().costs)
    index = {option.choice.label: place for place, option in enumerate(known.options) if option.choice}
    left = [place for place in known.originals if known.options[place].slots not in (("0.ffn",), ("1.ffn",))]
    both = tuple(sorted([index[first], index[second], *left]))
    assert made.candidate(0, both).drift == pytest.approx(0.2 + 0.1 + 5.0)


def test_predictions_are_put_right_by_the_line_through_whole_models() -> None:
    line = corrected([100.0, 200.0, 300.0], [60.0, 110.0, 160.0])
    made = Predictor(library(), predictor().costs, line)
    sums, _ = made.summed(0, library().originals)
    assert made.candidate(0, library().originals).ms == pytest.approx(0.5 * sums + 10)
    (best,) = made.best(Budget(ms=0.5 * sums + 10.001))
    assert best.drift == 0


def test_the_front_falls_from_the_fastest_to_the_original() -> None:
    front = predictor().sweep(Budget())
    assert front[-1].choices == () and front[-1].drift == 0
    assert [one.ms for one in front] == sorted(one.ms for one in front)
    assert [one.drift for one in front] == sorted((one.drift for one in front), reverse=True)


def test_an_option_whose_model_cannot_be_exported_is_none() -> None:
    affine = next(option for option in library().options if option.choice and option.choice.use == "affine-mlp")
    ((half, _),) = library().probes_of(affine, library().frames[0])
    fewer = Library(library().clean, library().trials, {}, frozenset({half.id}))
    left = [option.choice.label for option in fewer.options if option.choice]
    assert left == ["affine-mlp at layer 2", "prune-heads keep 1 at layer 1", "drop-blocks at layer 1"]
