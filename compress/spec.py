"""Specs: small frozen pydantic models, parsed strictly, that say how something is built.

A `Part` is a spec with variants told apart by `kind` (softmax attention or linear attention, MLP or affine map ...).
A variant registers itself by being defined, so adding one means adding one file.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError


class Spec(BaseModel):
    """A frozen record; unknown keys are an error, and so are numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, value: Any) -> Any:
        strange = sorted(map(str, value.keys() - cls.model_fields.keys())) if isinstance(value, dict) else []
        if strange:
            raise PydanticCustomError("unknown_key", "{line}", {"line": unknown("key", strange[0], cls.model_fields)})
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_only(cls, value: Any, info: ValidationInfo) -> Any:
        return numbers_only(cls, value, info)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**dict(self), **changes})


def numbers_only(cls: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """The value of a field, unless it is true, false or a text where a number is wanted: pydantic would take true for 1
    and '1' for 1.

    Raises PydanticCustomError.
    """
    kind = cls.model_fields[info.field_name or ""].annotation
    kinds = {kind, *get_args(kind)}
    if not kinds & {int, float}:
        return value
    texts = str in kinds or any(get_origin(one) is Literal for one in kinds)
    if (isinstance(value, bool) and bool not in kinds) or (isinstance(value, str) and not texts):
        raise PydanticCustomError("number", "expected a number")
    return value


class Part(Spec):
    """Base of a group of variants. A group is a direct subclass; a variant is a subclass of a group that gives `kind` a
    value.

    A field typed `Annotated[Group, PlainValidator(Group.parse), AS_ITS_VARIANT]` accepts any variant of the group
    and reads `{"kind": ..., ...}` into the right one.
    """

    variants: ClassVar[dict[str, type[Part]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Part in cls.__bases__:
            cls.variants = {}
            return
        if cls.model_fields["kind"].is_required():
            return  # what several variants share
        kind = cls.model_fields["kind"].default
        if kind in cls.variants:
            raise TypeError(f"two parts are called {kind!r}: {cls.variants[kind].__name__} and {cls.__name__}")
        cls.variants[kind] = cls

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a variant of this group from a spec or from a dict with `kind`."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict) or "kind" not in value:
            raise ValueError(f"expected a table with a `kind`, one of: {', '.join(sorted(cls.variants))}")
        variant = cls.variants.get(value["kind"])
        if variant is None:
            raise ValueError(unknown("kind", value["kind"], cls.variants))
        return variant.model_validate(value)  # type: ignore[return-value]


AS_ITS_VARIANT = PlainSerializer(lambda part: part.model_dump(mode="json"))


def unknown(what: str, given: object, allowed: Any) -> str:
    """One clear line for a name that is not among the allowed ones, with the nearest of them."""
    names = sorted(str(name) for name in allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {given!r}{hint} (known: {', '.join(names)})"


def first_cause(error: ValidationError) -> str:
    """One line for the first thing that is wrong: where, what, and what was given."""
    causes = error.errors(include_url=False)
    # Of the forms that a field may have, the one that was meant is the one whose reading came farthest.
    cause = max((one for one in causes if one["loc"][:1] == causes[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    place = ".".join(str(part) for part in cause["loc"] if "[" not in str(part))  # such parts name the form
    message = cause["msg"].removeprefix("Value error, ")
    if cause["type"] == "unknown_key":
        return f"{message} in {place}" if place else message
    if cause["type"] != "missing" and not isinstance(cause["input"], dict):
        message += f" (given: {cause['input']!r})"
    return f"{place}: {message}" if place else message


def import_all(package: str, path: list[str]) -> None:
    """Import every module of a package, so that each registers what it defines."""
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")
