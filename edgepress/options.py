"""The options that a spec has, as rows for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel


class Option(NamedTuple):
    """A field of a spec: its name, what it may be, and its default ("required" where it has none)."""

    name: str
    kind: str
    default: str


def rows_of(spec: type[BaseModel]) -> list[Option]:
    """The fields in their order."""
    return [
        Option(name, _kind(field.annotation, field.metadata), _default(field))
        for name, field in spec.model_fields.items()
    ]


def _default(field: Any) -> str:
    import json

    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value, default=str)


def _kind(hint: Any, limits: list[Any]) -> str:
    """A type in words: `int, above 0`, `"fp32" or "int8"`."""
    return ", ".join([_type(hint), *(text for limit in limits if (text := _limit(limit)))])


def _type(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "none"
    if hasattr(hint, "__metadata__"):
        return _kind(inner[0], list(hint.__metadata__))
    if origin is tuple or origin is list:
        return f"list of {_type(inner[0])}"
    if origin is not None and inner and all(isinstance(one, str | int) for one in inner):
        return " or ".join(f'"{one}"' if isinstance(one, str) else str(one) for one in inner)
    if inner:
        return " or ".join(_type(one) for one in inner)
    return {"str": "text", "bool": "true or false", "int": "int", "float": "number"}.get(
        getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint))
    )


def _limit(limit: Any) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return " and ".join(f"{word} {getattr(limit, name)}" for name, word in words.items() if hasattr(limit, name))
