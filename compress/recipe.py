"""Recipes: what to do to a model, as a TOML file that is read strictly.

Legend of a recipe's tables: [model], [data], [calibrate], [[rewrite]], [heal], [loops], [precision], [gate].
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from compress.heal.options import HealOptions
from compress.spec import Spec, first_cause, unknown
from compress.tables import CalibrateTable, DataTable, GateTable, LoopsTable, ModelTable, PrecisionTable
from runtime.files import check_no_pipe
from targets.errors import InputError

FOLDER = Path(__file__).parent / "recipes"


class Recipe(Spec):
    """The whole file. `rewrite`: tables with `use = NAME` and the options of that rewrite, applied in order; with
    `optional = true` a model that the rewrite refuses stays as it is."""

    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    calibrate: CalibrateTable = CalibrateTable()
    rewrite: tuple[dict[str, Any], ...] = ()
    heal: HealOptions = HealOptions()
    loops: LoopsTable = LoopsTable()
    precision: PrecisionTable = PrecisionTable()
    gate: GateTable = GateTable()

    @model_validator(mode="after")
    def _weights_can_be_shared(self) -> Recipe:
        if self.loops.offer and self.precision.loops == "scan":
            raise ValueError('loops.offer shares weights between unrolled files; leave precision.loops at "unrolled"')
        return self


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, with every registered rewrite; kept in `recipes/recipe.schema.json` for editors."""
    from compress.rewrites import REWRITES, STACKS

    document = Recipe.model_json_schema()
    choices = []
    for name, method in sorted(REWRITES.items()):
        table = method.options.model_json_schema()
        optional = {"type": "boolean", "default": False, "description": "Leave a model that it refuses as it is."}
        stack = {"enum": list(STACKS), "description": "Which stack of an encoder-decoder it works on."}
        table["properties"] = {
            "use": {"const": name},
            "optional": optional,
            "stack": stack,
            **table.get("properties", {}),
        }
        table["required"] = ["use", *table.get("required", [])]
        choices.append(table)
    document["properties"]["rewrite"]["items"] = {"oneOf": choices}
    return document


def builtin() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted({path.stem for path in FOLDER.rglob("*.toml")})


def load_for_model(source: str, settings: Sequence[str] = ()) -> Recipe:
    """The same as `load`, a built-in recipe in the form for the task of the model that it is about.

    Raises InputError as `load` does, or EnvironmentLacks if the package that holds a zoo model is not installed.
    """
    from compress import tasks, zoo

    # What is set of a rewrite may be in one of the forms alone.
    table, where = _table(source, [one for one in settings if one.partition(".")[0].strip() == "model"], "")
    model = zoo.locate(parse({"model": table.get("model", {})}, where).model.source)
    return load(source, settings, tasks.of_folder(model).recipes)


def load(source: str, settings: Sequence[str] = (), kind: str = "") -> Recipe:
    """Read a built-in recipe or a TOML file, with `table.key=value` settings put over it.

    `kind`: the folder of the recipes for some tasks; what is not there is taken from the folders around it.
    Raises InputError that names the file or setting, the key, what was given, what is allowed and the nearest name.
    """
    table, where = _table(source, settings, kind)
    return parse(table, _blamed(source, settings, kind) or where)


def others(kind: str = "") -> list[str]:
    """The built-in recipes that change the architecture of models of such a task."""
    places = [FOLDER / kind, *(FOLDER / parent for parent in Path(kind).parents)]
    own = [place for place in places if place != FOLDER] or [FOLDER]
    found = {path.stem for place in own for path in place.glob("*.toml")} - {"identity", "quick", "early-exit"}
    return sorted(found) or others()


def _blamed(source: str, settings: Sequence[str], kind: str) -> str | None:
    """The setting without which what is wrong would not be; None where it is the recipe's own fault, or nothing is."""
    cause = _cause(source, settings, kind)
    if cause is None:
        return None
    for index, setting in enumerate(settings):
        if _cause(source, [*settings[:index], *settings[index + 1 :]], kind) != cause:
            return f"setting {setting!r}"
    return None


def _cause(source: str, settings: Sequence[str], kind: str) -> str | None:
    """What is wrong with a recipe first."""
    try:
        Recipe.model_validate(_table(source, settings, kind)[0])
    except ValidationError as error:
        return first_cause(error)
    return None


def _table(source: str, settings: Sequence[str], kind: str) -> tuple[dict[str, Any], str]:
    """What `load` reads, not yet validated, and what errors call it."""
    around = [FOLDER / kind, *(FOLDER / parent for parent in Path(kind).parents)]
    places = [*around, *(one for one in sorted(FOLDER.iterdir()) if one.is_dir())]
    path = next((file for place in places if (file := place / f"{source}.toml").is_file()), Path(source))
    if FOLDER not in path.parents and path.suffix != ".toml":
        raise InputError(f"{unknown('recipe', source, builtin())}; a file must end in .toml")
    table = _read(path)
    for setting in settings:
        _put(table, setting)
    return table, str(path) if FOLDER not in path.parents else f"recipe {source!r}"


def parse(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from a parsed table; `where` is named in the errors. Rewrites are checked when the graph is built."""
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{where}: {first_cause(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    check_no_pipe(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of its numbers, or nested too deeply
        raise InputError(f"{path} is not valid TOML: {error}") from error


def _put(table: dict[str, Any], setting: str) -> None:
    """Put `heal.steps=200` into the table; the value is TOML, or a plain string where it is none."""
    key, separator, text = setting.partition("=")
    *place, name = key.strip().split(".")
    if not separator or not place:
        raise InputError(f"--set {setting!r}: expected table.key=value, such as heal.steps=200")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    _table_at(table, place, setting)[name] = value


def _table_at(table: dict[str, Any], place: list[str], setting: str) -> dict[str, Any]:
    """A table of the recipe, such as `heal`, or a rewrite by its name: `rewrite.hybrid`."""
    if place[0] == "rewrite" and len(place) == 2:
        names = [one.get("use") for one in table.get("rewrite", [])]
        if names.count(place[1]) != 1:
            there = f"the recipe has {place[1]!r} {names.count(place[1])} times" if place[1] in names else ""
            raise InputError(f"--set {setting!r}: {there or unknown('rewrite', place[1], names)}")
        found: dict[str, Any] = table["rewrite"][names.index(place[1])]
        return found
    if len(place) != 1 or place[0] not in Recipe.model_fields or place[0] == "rewrite":
        tables = {*Recipe.model_fields, "rewrite.NAME"} - {"rewrite"}
        raise InputError(f"--set {setting!r}: {unknown('table', '.'.join(place), tables)}")
    whole: dict[str, Any] = table.setdefault(place[0], {})
    return whole
