"""Recipes: what to do to a model, as a TOML file that is read strictly.

Legend of a recipe's tables: [model], [data], [calibrate], [[rewrite]], [heal], [loops], [precision], [gate].
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from compress.heal.options import HealOptions
from compress.spec import Spec, first_cause, unknown
from compress.verification.outcome import MIN_SAMPLES
from targets.errors import InputError

FOLDER = Path(__file__).parent / "recipes"
PrecisionMode = Literal["fp32", "fp16", "int8", "int4"]
CalibrationMethod = Literal["minmax", "entropy", "percentile"]


class ModelTable(Spec):
    """`source`: `zoo:NAME`, a Hugging Face model folder or a folder of a compressed model."""

    source: str = "zoo:vit-cifar10"


class DataTable(Spec):
    """`source`: see `compress.data.load`; a zoo model brings its own. `limit`: evaluate on so many samples only.
    `skip_corrupt`: leave out images that cannot be read instead of stopping."""

    source: str | None = None
    limit: PositiveInt | None = None
    skip_corrupt: bool = False


class CalibrateTable(Spec):
    """`samples`: how many inputs the closed-form fits and the quantiser see. `held_out`: how many of the healing
    samples are kept aside to measure drift while the model is changed."""

    samples: PositiveInt = 512
    held_out: PositiveInt = 256


class PrecisionTable(Spec):
    """`mode`: number format of the weights and products that ship; the target's own choice if not given.

    `calibration`: how int8 finds the ranges of activations. `smooth`: how much of the outliers of activations moves
    into the weights before int8 (SmoothQuant's alpha, 0 to 1); none if not given. `max_error`: largest error of the
    quantized outputs, as a part of their size, on samples that nothing was fitted on; where it is larger, up to
    `max_kept` of the layers that cost most stay in fp32. `rest`: what TensorRT's int8 file computes in beside its int8
    layers. `loops`: looped blocks as nodes of each loop, or as one Scan
    node: fewer bytes, but runtimes fuse less."""

    mode: PrecisionMode | None = None
    calibration: CalibrationMethod = "percentile"
    smooth: float | None = Field(default=None, ge=0, le=1)
    max_error: NonNegativeFloat = 0.2
    max_kept: NonNegativeInt = 8
    rest: Literal["fp32", "fp16"] = "fp32"
    loops: Literal["unrolled", "scan"] = "unrolled"


class LoopsTable(Spec):
    """Other numbers of loops of a looped model that the device may choose from (`--loops 4`). `offer`: a file each,
    which shares its weights with the whole model's; what fails the gate is not offered. `exit`: the probability at
    which a classifier's answer after fewer loops is final (`--exit`), gated as well; none if not given."""

    offer: tuple[PositiveInt, ...] = ()
    exit: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _there_is_something_to_exit_from(self) -> LoopsTable:
        if self.exit is not None and not self.offer:
            raise ValueError("exit needs the numbers of loops to exit after; give some with offer")
        return self


class GateTable(Spec):
    """`max_drop`: largest drop of the task's metric in points that the worse end of the paired interval may show;
    `confidence` of that interval; `min_samples` below which nothing is judged."""

    max_drop: NonNegativeFloat = 1.0
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    min_samples: PositiveInt = MIN_SAMPLES


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
    from compress.rewrites import REWRITES

    document = Recipe.model_json_schema()
    choices = []
    for name, method in sorted(REWRITES.items()):
        table = method.options.model_json_schema()
        optional = {"type": "boolean", "default": False, "description": "Leave a model that it refuses as it is."}
        table["properties"] = {"use": {"const": name}, "optional": optional, **table.get("properties", {})}
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
    return parse(*_table(source, settings, kind))


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
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid TOML: {error}") from error


def _put(table: dict[str, Any], setting: str) -> None:
    """Put `heal.steps=200` into the table; the value is TOML, or a plain string where it is none."""
    key, separator, text = setting.partition("=")
    *place, name = key.strip().split(".")
    if not separator or not place:
        raise InputError(f"--set {setting!r}: expected table.key=value, such as heal.steps=200")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
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
