"""What a search may try of a rewrite: which parts of a model it replaces, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.structure import Structure

#: Halves of a layer; and of the whole model its number of tokens, the width of its stream and its vocabulary table.
Half = Literal["mixer", "ffn"]
Whole = Literal["tokens", "stream", "table"]
Values = Callable[[Structure], Iterator[Mapping[str, Any]]]


@dataclass(frozen=True)
class SearchRange:
    """`takes`: what the rewrite replaces; two rewrites that take the same half of a layer, or the same property of the
    model, exclude each other. `values`: its options for a model, all but `layers`, the ones most worth a try first.
    What a model cannot have the rewrite refuses when it is tried. `renumbers`: layers behind those that it works on get
    other numbers. `early`: where there is time for few tries, it comes before the others that take the same."""

    takes: tuple[Half | Whole, ...]
    values: Values
    renumbers: bool = False
    early: bool = False

    @property
    def layered(self) -> bool:
        """Whether it works on layers, which are chosen one by one."""
        return bool({"mixer", "ffn"} & set(self.takes))


def nothing_to_choose(structure: Structure) -> Iterator[Mapping[str, Any]]:
    """The one value of a rewrite that has no options but its layers."""
    yield {}


def each(**values: tuple[Any, ...]) -> Values:
    """One option and its values, whatever the model."""
    ((name, every),) = values.items()
    return lambda structure: ({name: value} for value in every)


def parts_of_width(name: str, *shares: float) -> Values:
    """One option that counts directions of the stream, as shares of the model's."""
    return lambda structure: ({name: count} for count in counts(structure.hidden_size, *shares))


def counts(whole: int, *shares: float) -> list[int]:
    """Different whole numbers near these shares, none below 1 and none that is all of it."""
    return [one for one in dict.fromkeys(max(1, round(whole * share)) for share in shares) if one < whole]


def head_size(structure: Structure) -> int | None:
    """The size of the queries and keys of a head in the first layer of plain attention; None where there is none."""
    scores = _first_scores(structure)
    return None if scores is None else scores.head_dim


def head_count(structure: Structure) -> int | None:
    """The number of heads in the first layer of plain attention; None where there is none."""
    scores = _first_scores(structure)
    return None if scores is None else scores.num_heads


def key_head_count(structure: Structure) -> int | None:
    """The number of heads of keys in the first layer of plain attention; None where there is none."""
    scores = _first_scores(structure)
    return None if scores is None else scores.num_kv_heads


def _first_scores(structure: Structure) -> ProjectedScoresSpec | None:
    for spec in structure.blocks:
        if isinstance(spec.mixer, SoftmaxAttentionSpec) and isinstance(spec.mixer.scores, ProjectedScoresSpec):
            return spec.mixer.scores
    return None
