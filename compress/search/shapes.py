"""Which small models tell what the halves of layers cost: the model without layers, and a few copies of each half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.pipeline.digest import digest_of
from compress.tables import PrecisionMode

if TYPE_CHECKING:
    from compress.model import Structure
    from compress.model.block import BlockSpec

#: Copies of a half in its probe: more of them tell it better from the rest of the file, and take longer to export.
COPIES = 3


@dataclass(frozen=True)
class Probe:
    """A model to time. `copies` of one half in it, 0 for the model without layers and for whole models. `precision`: of
    its file, None for the one that ships."""

    label: str
    structure: dict[str, Any]
    copies: int = 0
    whole: bool = False
    precision: PrecisionMode | None = None

    @property
    def base(self) -> Probe:
        """The same model without layers, which is subtracted."""
        return Probe("the model without layers", {**self.structure, "blocks": [], "schedule": []})

    @property
    def id(self) -> str:
        """A short digest of what is timed; the same half of two layers has one."""
        return digest_of([self.structure, self.copies, self.whole, self.precision])[:16]


def without_layers(structure: Structure) -> Probe:
    """Embedding, final norm and head."""
    return Probe("the model without layers", _of(structure, []))


def of_half(structure: Structure, layer: int, half: str, tokens_left: int | None, shrink: int) -> Probe | None:
    """Copies of one half of a layer; None where the layer has none, which costs nothing.

    `tokens_left`: all that leaves the layer, for a last layer whose head reads no more; one copy then. `shrink`: by
    what the sides of the image are divided where earlier layers pooled it.
    """
    spec = _alone(structure.blocks[layer], half)
    if spec is None:
        return None
    copies = COPIES
    if tokens_left is not None:
        from compress.model.reducers.first import FirstSpec

        copies, spec = 1, spec.replace(reducer=FirstSpec(count=tokens_left))
    small = _smaller(structure, shrink)
    return Probe(f"{copies} x {half} of layer {layer}", _of(small, [spec] * copies), copies)


def of_whole(structure: Structure, label: str, precision: PrecisionMode | None = None) -> Probe:
    """A whole model as it ships."""
    return Probe(label, structure.model_dump(mode="json"), whole=True, precision=precision)


def _alone(spec: BlockSpec, half: str) -> BlockSpec | None:
    if getattr(spec, half) is None:
        return None
    other = "ffn" if half == "mixer" else "mixer"
    return spec.replace(**{other: None, f"{other}_norm": None, f"{other}_out_norm": None, "reducer": None})


def _of(structure: Structure, blocks: list[BlockSpec]) -> dict[str, Any]:
    from compress.model.structure import Step

    schedule = tuple(Step(block=index, origin=0) for index in range(len(blocks)))
    model = structure.replace(blocks=tuple(blocks), schedule=schedule, labels=structure.labels)
    return model.model_dump(mode="json")


def _smaller(structure: Structure, shrink: int) -> Structure:
    from compress.model.embeds.patch import PatchEmbedSpec

    embed = structure.embed
    if shrink == 1 or not isinstance(embed, PatchEmbedSpec):
        return structure
    height, width = embed.image_size
    return structure.replace(embed=embed.replace(image_size=(height // shrink, width // shrink)))
