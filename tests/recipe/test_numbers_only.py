"""`true` and `'1'` in a gate or a recipe are not taken for the number 1."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from compress.recipe import Recipe
from compress.verification import gate
from targets.errors import InputError


@pytest.mark.parametrize(
    "table",
    [
        {"check": [{"metric": "top1", "max_drop": True}]},
        {"check": [{"metric": "top1", "min_value": False}]},
        {"check": [{"metric": "top1", "max_drop": "1"}]},
        {"confidence": "0.9", "check": [{"metric": "top1", "max_drop": 1.0}]},
        {"min_samples": True, "check": [{"metric": "top1", "max_drop": 1.0}]},
        {"check": [{"metric": "top1", "max_drop": 1.0, "min_samples": True}]},
    ],
)
def test_a_gate_refuses_what_is_no_number(table: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected a number \(given: (True|False|'1'|'0.9')\)"):
        gate.parse(table)


@pytest.mark.parametrize(
    "table", [{"gate": {"max_drop": True}}, {"gate": {"max_drop": "1"}}, {"heal": {"steps": True}}]
)
def test_a_recipe_refuses_what_is_no_number(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected a number"):
        Recipe.model_validate(table)


def test_true_stays_true_where_it_is_wanted() -> None:
    assert Recipe.model_validate({"rewrite": [{"use": "fold-norm", "optional": True}]}).rewrite[0]["optional"] is True
