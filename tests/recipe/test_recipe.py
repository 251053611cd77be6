"""Recipes: read strictly, one clear line per cause, and described by a schema that is kept current."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from compress.recipe import FOLDER, Recipe, builtin, load, load_for_model, parse, schema
from compress.rewrites import parse_options
from targets.errors import InputError


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.toml")), ids=lambda file: str(file.relative_to(FOLDER)))
def test_every_built_in_recipe_is_valid_and_fits_the_schema(file: Path) -> None:
    assert file.stem in builtin()
    recipe = load(file.stem, kind=str(file.parent.relative_to(FOLDER)))
    for table in recipe.rewrite:
        parse_options(table)
    jsonschema.validate(tomllib.loads(file.read_text()), schema())


def test_a_recipe_that_a_kind_has_not_is_that_of_the_kinds_around_it() -> None:
    methods = {kind: [table["use"] for table in load("quick", kind=kind).rewrite] for kind in ("", "text/classifier")}
    assert methods["text/classifier"] == ["drop-key-bias", "fold-value-bias"] and "low-rank-heads" in methods[""]
    assert load("loop", kind="text/classifier") == load("loop", kind="text") != load("loop")
    assert load("identity", kind="text/classifier") == load("identity")


def test_the_schema_in_the_repository_is_current() -> None:
    assert json.loads((FOLDER / "recipe.schema.json").read_text()) == schema()


def test_the_schema_refuses_what_the_parser_refuses() -> None:
    for table in ({"rewrite": [{"use": "nothing"}]}, {"heal": {"stps": 1}}, {"gate": {"confidence": 2}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(table, schema())


def test_a_setting_overrides_the_file() -> None:
    recipe = load("quick", ["heal.steps=7", "model.source=zoo:vit-mnist", 'data.source="zoo:mnist-test"'])
    assert (recipe.heal.steps, recipe.model.source, recipe.data.source) == (7, "zoo:vit-mnist", "zoo:mnist-test")
    assert load("quick").heal.steps != 7
    hybrid = load("hybrid", ["rewrite.hybrid.layers=auto:8", "rewrite.hybrid.window=32"])
    assert hybrid.rewrite == ({"use": "hybrid", "window": 32, "layers": "auto:8"},)


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("heal", "expected table.key=value"),
        ("heal.stps=3", "'steps'"),
        ("heel.steps=3", "did you mean 'heal'"),
        ("rewrite.use=x", "unknown table 'rewrite'"),
        ("rewrite.hybird.window=8", "unknown rewrite 'hybird' (known: drop-key-bias"),
        ("heal.steps.more=8", "unknown table 'heal.steps'"),
        ("gate.max_drop=inf", "gate.max_drop: Input should be a finite number"),
        ("heal.steps=-1", "heal.steps"),
        ("heal.lr=nan", "heal.lr"),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_allowed(setting: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        load("quick", [setting])
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'quick'"):
        load("quik")


def test_an_empty_recipe_is_the_identity() -> None:
    assert parse({}, "test") == Recipe()
    assert Recipe().rewrite == ()


def test_what_only_the_form_for_the_models_task_has_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    model = f'model.source="{tmp_path}"'
    tables = load_for_model("quick", ["rewrite.low-rank-embedding.rank=0.5", model]).rewrite
    assert {table["use"]: table.get("rank") for table in tables}["low-rank-embedding"] == 0.5
    with pytest.raises(InputError, match=r"unknown rewrite 'fold-norm'.*low-rank-embedding"):
        load_for_model("quick", [model, "rewrite.fold-norm.layers=all"])
    with pytest.raises(InputError, match=r"unknown key 'sorce'; did you mean 'source'"):
        load_for_model("quick", ["model.sorce=1"])


@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        (["heal.stepz=3"], "setting 'heal.stepz=3': unknown key 'stepz'"),
        (["heal.steps=3", "gate.max_drop=-1"], "setting 'gate.max_drop=-1': gate.max_drop"),
        (["loops.exit=0.9"], "setting 'loops.exit=0.9': loops"),
    ],
)
def test_what_a_setting_makes_wrong_is_blamed_on_the_setting(settings: list[str], blamed: str) -> None:
    with pytest.raises(InputError) as caught:
        load("quick", settings)
    assert str(caught.value).startswith(blamed)


def test_what_the_file_says_wrong_is_blamed_on_the_file_whatever_is_set(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[heal]\nstepz = 3\n")
    with pytest.raises(InputError, match=r"own\.toml: unknown key 'stepz'"):
        load(str(tmp_path / "own.toml"), ["gate.max_drop=2"])
    assert load("quick", ["loops.exit=0.9", "loops.offer=[1]"]).loops.exit == 0.9
