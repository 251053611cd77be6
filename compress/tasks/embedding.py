"""Sentence embedding: a vector per text, judged by the rank correlation of cosine similarities with people's scores;
the cosine to the original's embedding is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.task import Part, Prepared, Tell
from compress.tasks.text import BATCH, TextTask

if TYPE_CHECKING:
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
    outputs = (OUTPUT,)
    metric = "spearman"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def suited(self, dataset: TextDataset, part: Part) -> TextDataset:
        dataset.check()
        if part == "healing":
            return dataset.singles()
        dataset.check_scores()
        return dataset

    def answers(self, run: Run, data: Prepared, structure: Structure, tell: Tell) -> EmbeddedPairs:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts, by_length
        from compress.verification.kinds.embeddings import EmbeddedPairs
        from runtime.texts.text import pad

        assert isinstance(data, PreparedTexts)
        ids, places_S2 = data.different()
        vectors = np.empty((len(ids), 0), np.float32)
        seen = 0
        for indices in by_length(ids, BATCH):
            found = run(pad([ids[index] for index in indices], data.spec))[OUTPUT]
            if not seen:
                vectors = np.empty((len(ids), found.shape[1]), np.float32)
            vectors[indices] = found
            seen += len(indices)
            tell(seen * len(data) // len(ids))
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
