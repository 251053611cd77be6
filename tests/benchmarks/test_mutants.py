"""A mutant is the code with one small change, and every listed change is made."""

from __future__ import annotations

import ast
import difflib

from benchmarks.lab.mutation import changed, changes

CODE = '''
def least(samples: int = 3, exact: bool = False) -> float:
    """Of 4 samples or 5."""
    assert samples > 0
    Field(examples=[7])
    if not exact and samples <= 2:
        raise ValueError(f"{samples + 1} of 2 samples")
    return -samples * 0.5
'''


def test_every_listed_change_alters_one_line_and_no_text() -> None:
    listed = changes(ast.parse(CODE))
    made = [ast.unparse(changed(ast.parse(CODE), place)) for place in range(len(listed))]
    before = ast.unparse(ast.parse(CODE))
    for text in made:
        lines = [line for line in difflib.ndiff(before.splitlines(), text.splitlines()) if line[0] in "+-"]
        assert len(lines) == 2 and '"""Of 4 samples or 5."""' in text and "{samples + 1} of 2" in text
    assert len(set(made)) == len(made)


def test_comparisons_operators_numbers_truth_values_and_a_dropped_not_are_changed() -> None:
    assert {what for _, what in changes(ast.parse(CODE))} == {
        "3 -> 4",
        "False -> True",
        "not exact and samples <= 2 -> not exact or samples <= 2",
        "not exact -> not not exact",
        "samples <= 2 -> samples < 2",
        "2 -> 3",
        "-samples * 0.5 -> -samples / 0.5",
        "-samples -> +samples",
        "0.5 -> 1.5",
    }
