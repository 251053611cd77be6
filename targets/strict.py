"""Read plain data (from TOML or JSON) into frozen dataclasses, refusing anything that does not fit.

Each error is one line that names the file, the key, what was given, what is allowed and, for a misspelling, the
nearest name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from targets.errors import InputError

T = TypeVar("T")

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read(
    cls: type[T], data: object, where: str, *, fixed: Mapping[str, object] | None = None, ignore_unknown: bool = False
) -> T:
    """Build dataclass `cls` from a table. `where` names the file in errors; unknown keys are refused unless ignored.

    `fixed` are fields that the caller sets, so the table may not.

    Understands text, numbers, booleans, `Literal`, unions, `tuple[X, ...]`, `dict[str, X]` and nested dataclasses.
    Raises InputError.
    """
    value: T = _Reader(where, ignore_unknown).table(cls, data, "", fixed)
    return value


def nearest(given: str, allowed: Iterable[str]) -> str:
    """' (nearest: X)' for the allowed name that most resembles `given`, or nothing."""
    close = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f"; nearest: {close[0]!r}" if close else ""


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@dataclasses.dataclass(frozen=True)
class _Reader:
    where: str
    ignore_unknown: bool

    def fail(self, key: str, problem: str) -> InputError:
        return InputError(f"{self.where}: key {key!r}: {problem}" if key else f"{self.where}: {problem}")

    def table(self, cls: Any, data: object, prefix: str, fixed: Mapping[str, object] | None = None) -> Any:
        if not isinstance(data, Mapping):
            raise self.fail(prefix.rstrip("."), f"given {_show(data)}, allowed: a table")
        values = dict(fixed or {})
        fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in values}
        for key in data:
            if key not in fields and not self.ignore_unknown:
                allowed = ", ".join(fields)
                raise self.fail(f"{prefix}{key}", f"unknown; allowed: {allowed}{nearest(str(key), fields)}")
        for name, field in fields.items():
            if name in data:
                values[name] = self.value(_hints(cls)[name], data[name], f"{prefix}{name}")
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise self.fail(f"{prefix}{name}", "missing")
        try:
            return cls(**values)
        except ValueError as error:  # raised by the dataclass's own __post_init__
            raise self.fail(prefix.rstrip("."), str(error)) from error

    def value(self, hint: Any, data: object, key: str) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if hint is object or hint is Any:
            return data
        if origin in (Union, types.UnionType):
            return self.union(args, data, key)
        if origin is Literal:
            if not any(data == choice and type(data) is type(choice) for choice in args):
                allowed = ", ".join(map(str, args))
                raise self.fail(key, f"given {_show(data)}, allowed: {allowed}{nearest(str(data), map(str, args))}")
            return data
        if origin is tuple:
            if not isinstance(data, list | tuple):
                raise self.fail(key, f"given {_show(data)}, allowed: a list")
            if len(args) == 2 and args[1] is Ellipsis:
                return tuple(self.value(args[0], item, f"{key}[{index}]") for index, item in enumerate(data))
            if len(data) != len(args):
                raise self.fail(key, f"given {_show(data)}, allowed: a list of {len(args)}")
            return tuple(
                self.value(part, item, f"{key}[{index}]")
                for index, (part, item) in enumerate(zip(args, data, strict=True))
            )
        if origin is dict:
            if not isinstance(data, Mapping):
                raise self.fail(key, f"given {_show(data)}, allowed: a table")
            return {str(name): self.value(args[1], item, f"{key}.{name}") for name, item in data.items()}
        if dataclasses.is_dataclass(hint):
            return self.table(hint, data, f"{key}.")
        return self.scalar(hint, data, key)

    def union(self, args: tuple[Any, ...], data: object, key: str) -> Any:
        choices = [arg for arg in args if arg is not types.NoneType]
        if data is None and len(choices) < len(args):
            return None
        if len(choices) == 1:
            return self.value(choices[0], data, key)
        for choice in choices:  # the first that fits is meant
            try:
                return self.value(choice, data, key)
            except InputError:
                continue
        allowed = " or ".join(_NAMES.get(choice, "a list") for choice in choices)
        raise self.fail(key, f"given {_show(data)}, allowed: {allowed}")

    def scalar(self, hint: Any, data: object, key: str) -> Any:
        if hint is float and type(data) is int:
            return float(data)
        if type(data) is not hint:  # exact: true is not a whole number
            raise self.fail(key, f"given {_show(data)}, allowed: {_NAMES[hint]}")
        return data


def _show(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."
