"""What a search may try of each rewrite, and the recipe that a combination becomes."""

from __future__ import annotations

import pytest
from support.rewriting import calibration_of
from support.tiny import block_spec, model_of

from compress.rewrites import REWRITES, parse_options, run_rewrite
from compress.search.choices import CLEAN, Choice, layer_choices, recipe_tables, whole_choices
from targets.errors import InputError

#: Inexact rewrites that no search chooses yet, with the reason.
LEFT_OUT = {
    "affine-patch": "it replaces runs of layers, which are not halves of one",
    "gated-delta-rule": "its mixers want a long transfer of attention before they mean anything",
    "gated-linear-attention": "its mixers want a long transfer of attention before they mean anything",
    "hybrid": "its mixers want a long transfer of attention before they mean anything",
    "linear-cross": "a search works on models of one stack",
    "shortlist": "a search works on models of one stack",
    "relax-loops": "it only gives looped blocks parts of their own",
    "tie-layers": "it joins many layers at once",
    "trim-vocabulary": "which tokens a device will never meet only the user knows",
}
MODEL = model_of(*[block_spec(heads=2, head_dim=6)] * 3)


def test_every_rewrite_that_changes_answers_says_what_a_search_may_try_or_why_not() -> None:
    silent = {name for name, method in REWRITES.items() if not method.exact and method.search is None}
    assert silent == LEFT_OUT.keys() - {name for name in LEFT_OUT if REWRITES[name].exact}


@pytest.mark.parametrize("use", sorted(name for name, method in REWRITES.items() if method.search))
def test_each_value_of_a_search_range_can_be_read_and_is_taken_or_refused_in_a_line(use: str) -> None:
    method = REWRITES[use]
    assert method.search is not None
    values = list(method.search.values(MODEL.structure))
    assert values, f"{use} has nothing to try on a plain model"
    assert len({str(value) for value in values}) == len(values)
    for value in values[:3]:
        table = {"use": use, **value, **({"layers": [1]} if method.search.layered else {})}
        try:
            result = run_rewrite(*parse_options(table), MODEL, calibration_of(MODEL, batches=1, size=4))
        except InputError as refusal:
            assert use in str(refusal)
            continue
        for half in ("mixer", "ffn"):
            changed = len(result.structure.blocks) < 3 or getattr(result.structure.blocks[1], half) != getattr(
                MODEL.structure.blocks[1], half
            )
            assert not (method.search.layered and changed) or half in method.search.takes


def test_a_layer_gets_the_first_value_of_every_rewrite_before_the_second_of_any() -> None:
    found = layer_choices(MODEL.structure, 1, most=100)
    assert all(choice.layer == 1 for choice in found)
    of_ffn = [choice for choice in found if choice.slots == ("1.ffn",)]
    first = len({choice.use for choice in of_ffn})
    assert len({choice.use for choice in of_ffn[:first]}) == first
    assert [choice for choice in layer_choices(MODEL.structure, 1, most=2) if choice.slots == ("1.ffn",)] == of_ffn[:2]


def test_a_layer_that_goes_takes_both_halves() -> None:
    gone = [choice for choice in layer_choices(MODEL.structure, 2, most=1) if choice.use == "drop-blocks"]
    assert [choice.slots for choice in gone] == [("2.mixer", "2.ffn")]


def test_what_is_done_to_the_whole_model_has_no_layer() -> None:
    assert {choice.use for choice in whole_choices(MODEL.structure, 2)} >= {"pool-tokens", "slice-width"}
    assert all(choice.layer is None for choice in whole_choices(MODEL.structure, 2))


def choice(use: str, layer: int | None = None, **options: object) -> Choice:
    return Choice(use=use, options=dict(options), layer=layer)


def test_layers_that_get_the_same_share_a_table() -> None:
    pruned = [choice("prune-neurons", 0, keep=0.5), choice("prune-neurons", 1, keep=0.25)]
    tables = recipe_tables([choice("drop-mlp", 2), *pruned, choice("drop-mlp", 0)], 3)
    assert tables[: len(CLEAN)] == list(CLEAN)
    assert tables[len(CLEAN) :] == [
        {"use": "drop-mlp", "layers": [0, 2]},
        {"use": "prune-neurons", "keep": 0.25, "layers": [1]},
        {"use": "prune-neurons", "keep": 0.5, "layers": [0]},
    ]


def test_layers_behind_one_that_goes_are_called_by_their_new_numbers() -> None:
    tables = recipe_tables(
        [choice("drop-blocks", 1), choice("drop-mlp", 3), choice("drop-mlp", 0), choice("pool-tokens", after=2)], 5
    )
    assert tables[len(CLEAN) :] == [
        {"use": "drop-blocks", "layers": [1]},
        {"use": "drop-mlp", "layers": [0, 2]},
        {"use": "pool-tokens", "after": 1},
    ]


def test_a_combination_is_what_its_choices_are_one_by_one() -> None:
    calibration = calibration_of(MODEL, batches=1, size=4)
    model = MODEL
    chosen = [choice("drop-blocks", 0), choice("affine-mlp", 2), choice("prune-heads", 1, keep=1)]
    for table in recipe_tables(chosen, 3):
        try:
            model = run_rewrite(*parse_options(table), model, calibration)
        except InputError:
            assert table.get("optional")
    first, second = model.structure.blocks
    assert first.mixer is not None and first.mixer.scores.num_heads == 1
    assert first.ffn is not None and first.ffn.kind == "mlp"
    assert second.mixer is not None and second.mixer.scores.num_heads == 2
    assert second.ffn is not None and second.ffn.kind == "affine"
