"""Sentence embedding: a vector per text, judged by the rank correlation of cosine similarities with people's scores;
the cosine to the original's embedding is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.task import AnyPart, Prepared, Tell
from compress.tasks.text import BATCH, TextTask, rows_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.embeddings import EmbeddedPairs
    from compress.verification.samples import Samples

OUTPUT = "sentence_embedding"


class Embedding(TextTask):
    """Vectors of texts. Any texts are good for healing; evaluation needs pairs with scores."""

    name = "embedding"
    architectures = ("Model", "TextModelWithProjection")
    sentence_architectures = ("ForMaskedLM",)
    head = "vector"
    outputs = (OUTPUT,)
    metric = "spearman"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        if part == "healing":
            return dataset.singles()
        dataset.check_scores()
        return dataset

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> EmbeddedPairs:
        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.embeddings import EmbeddedPairs

        assert isinstance(data, PreparedTexts)
        ids, places_S2 = data.different()

        def seen(indices: list[int], vectors: np.ndarray, done: int) -> None:
            tell(done * len(data) // len(ids))

        vectors = rows_of(run, ids, data.spec, OUTPUT, batch or BATCH, seen)
        return EmbeddedPairs(vectors[places_S2], data.dataset.scores)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"Spearman x 100 of {len(answers)} pairs: {METRICS['spearman'].value(answers):.2f}"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import EMBEDDING

        return EMBEDDING

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional as F

        return F.cosine_similarity(wanted_BK, given_BK, dim=-1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"cosine {agreement:.4f} to the original's embedding of {count} held-out"


TASK = Embedding()
