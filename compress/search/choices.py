"""What may be put in place of the halves of each layer, and what may be done to the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from compress.spec import Spec

if TYPE_CHECKING:
    from compress.model import Structure
    from compress.rewrites.rewrite import Rewrite

#: Exact and free: they come first in every recipe of a search, where the model takes them.
CLEAN: tuple[dict[str, Any], ...] = tuple(
    {"use": name, "optional": True} for name in ("fold-norm", "drop-key-bias", "fold-value-bias")
)


class Choice(Spec):
    """One rewrite with its options on one layer, or on the whole model where `layer` is None."""

    use: str
    options: dict[str, Any]
    layer: int | None = None

    def __hash__(self) -> int:
        return hash(self.label)

    @property
    def method(self) -> Rewrite:
        from compress.rewrites import REWRITES

        return REWRITES[self.use]

    @property
    def slots(self) -> tuple[str, ...]:
        """What it takes: halves of its layer such as "3.ffn", or properties of the model such as "tokens"."""
        assert self.method.search is not None
        return tuple(one if self.layer is None else f"{self.layer}.{one}" for one in self.method.search.takes)

    @property
    def table(self) -> dict[str, Any]:
        """The recipe's table."""
        return {"use": self.use, **self.options, **({} if self.layer is None else {"layers": [self.layer]})}

    @property
    def label(self) -> str:
        """For people: prune-neurons keep 0.5 at layer 3."""
        options = "".join(f" {key} {value}" for key, value in self.options.items())
        return f"{self.use}{options}{'' if self.layer is None else f' at layer {self.layer}'}"


def layer_choices(structure: Structure, layer: int, most: int) -> list[Choice]:
    """At most `most` replacements for each half of a layer, and whatever takes both halves."""
    found: list[Choice] = []
    for takes in (("mixer",), ("ffn",), ("mixer", "ffn")):
        found += [one.replace(layer=layer) for _, one in zip(range(most), _in_turn(structure, takes), strict=False)]
    return found


def whole_choices(structure: Structure, most: int) -> list[Choice]:
    """At most `most` for each thing that may be done to the whole model."""
    every = (("tokens",), ("stream",), ("table",))
    return [one for takes in every for _, one in zip(range(most), _in_turn(structure, takes), strict=False)]


def _in_turn(structure: Structure, takes: tuple[str, ...]) -> Iterator[Choice]:
    """First the first value of each rewrite that takes these, then the second of each, and so on."""
    from compress.rewrites import REWRITES

    ranges = [
        (name, iter(method.search.values(structure)))
        for name, method in sorted(REWRITES.items(), key=_worth_a_try)
        if method.search is not None and method.search.takes == takes
    ]
    while ranges:
        left = []
        for name, values in ranges:
            value = next(values, None)
            if value is not None:
                left.append((name, values))
                yield Choice(use=name, options=dict(value))
        ranges = left


def _worth_a_try(named: tuple[str, Rewrite]) -> tuple[bool, str]:
    name, method = named
    return (method.search is None or not method.search.early, name)


def recipe_tables(chosen: Iterable[Choice], layers: int) -> list[dict[str, Any]]:
    """The `[[rewrite]]` tables of a combination of choices for a model of `layers` layers: what is exact, blocks that
    go, what changes layers (one table for all layers that get the same), then what is done to the whole model."""
    chosen = list(chosen)
    gone = sorted(one.layer for one in chosen if one.layer is not None and _renumbers(one))
    number = {layer: index for index, layer in enumerate(one for one in range(layers) if one not in gone)}
    tables = [dict(table) for table in CLEAN]
    if gone:
        tables.append({"use": next(one.use for one in chosen if _renumbers(one)), "layers": gone})
    grouped: dict[str, dict[str, Any]] = {}
    for one in sorted(
        (one for one in chosen if one.layer is not None and not _renumbers(one)), key=lambda one: (one.use, one.label)
    ):
        assert one.layer is not None
        kind = one.replace(layer=None).model_dump_json()
        grouped.setdefault(kind, {"use": one.use, **one.options, "layers": []})["layers"].append(number[one.layer])
    tables += [{**table, "layers": sorted(table["layers"])} for table in grouped.values()]
    return tables + [_moved(one, number) for one in chosen if one.layer is None]


def _renumbers(one: Choice) -> bool:
    return one.method.search is not None and one.method.search.renumbers


def _moved(one: Choice, number: dict[int, int]) -> dict[str, Any]:
    """The table of a choice for the whole model, once the layers behind which it works have other numbers."""
    table = one.table
    if "after" not in table:
        return table
    kept = [layer for layer in number if layer <= table["after"]]
    return {**table, "after": number[kept[-1]] if kept else 0}
