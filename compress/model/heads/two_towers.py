"""Images held against texts. B images, T texts, D hidden size, E width of the vectors."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.embed import Embed
from compress.model.head import Head, HeadSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.heads.text_tower import TextTowerSpec
from compress.model.sequence import Context

SCORES, IMAGES, TEXTS = "logits_per_image", "image_embeds", "text_embeds"


class TwoTowersSpec(HeadSpec):
    """logits = scale cos(image, text) + bias (CLIP, Radford et al. 2021, arXiv 2103.00020; SigLIP, Zhai et al. 2023,
    arXiv 2303.15343). `text`: the tower that reads the texts; without it the vectors of `classes` texts are weights.
    `size`: of the vectors."""

    kind: Literal["two-towers"] = "two-towers"
    image: ImageEmbeddingSpec
    size: PositiveInt
    text: TextTowerSpec | None = None
    classes: PositiveInt | None = None

    @model_validator(mode="after")
    def _texts_are_read_or_known(self) -> TwoTowersSpec:
        if (self.text is None) == (self.classes is None):
            raise ValueError("either a text tower or a number of classes is wanted")
        return self

    @property
    def tokens(self) -> int | None:
        return self.image.tokens

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out, the scores first."""
        return (SCORES, IMAGES) if self.text is None else (SCORES, TEXTS, IMAGES)

    def build(self, hidden_size: int) -> TwoTowers:
        return TwoTowers(self, hidden_size)


class TwoTowers(Head):
    outputs = (SCORES,)

    def __init__(self, spec: TwoTowersSpec, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.image = spec.image.build(hidden_size)
        self.text = spec.text.build() if spec.text else None
        self.classes = nn.Parameter(torch.zeros(spec.classes, spec.size)) if spec.classes else None
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def select(self, x_BND: Tensor) -> Tensor:
        return self.image.select(x_BND)

    def from_inputs(
        self, x_BND: Tensor, context: Context, embed: Embed, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        image_BE = F.normalize(self.image(x_BND, context, embed)[self.image.outputs[0]], dim=-1)
        text_TE = self.texts(inputs)
        scores_BT = image_BE @ text_TE.T * self.scale + self.bias
        given = {SCORES: scores_BT, TEXTS: text_TE, IMAGES: image_BE}
        return {name: given[name] for name in self.spec.outputs}

    def texts(self, inputs: dict[str, Tensor]) -> Tensor:
        """The vectors of the texts (T,E), of length one."""
        if self.text is None:
            assert self.classes is not None
            return self.classes
        return F.normalize(self.text(inputs), dim=-1)
