"""Image embedding: a vector per image, judged by how often the nearest other image is of the same class; the cosine to
the original's embedding is reported beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.files import BATCH, rows_of_files
from compress.tasks.images import ImageTask, PreparedImages
from compress.tasks.task import Prepared, Tell
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.embeddings import EmbeddedClasses
    from compress.verification.samples import Samples

OUTPUT = "image_embedding"


class ImageEmbedding(ImageTask):
    """Vectors of images. Evaluation needs images by class, whatever the classes."""

    name = "image-embedding"
    architectures = ("Model", "ModelWithProjection")
    head = "vector"
    outputs = (OUTPUT,)
    graph = "image embedding (one input of 4 dimensions, vectors of 2)"
    metric = "nearest1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> EmbeddedClasses:
        import numpy as np

        from compress.verification.kinds.embeddings import EmbeddedClasses

        assert isinstance(data, PreparedImages)

        def vectors(outputs: Arrays, count: int) -> np.ndarray:
            rows = np.asarray(outputs[OUTPUT], np.float32)
            if rows.ndim != 2 or len(rows) != count:
                shape = list(rows.shape)
                raise InputError(f"the model gives outputs of shape {shape}; vectors [batch, width] are needed")
            return rows[:, None]

        return EmbeddedClasses(rows_of_files(run, data, batch or BATCH, tell, vectors), data.dataset.labels)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        share = METRICS[self.metric].value(answers)
        return f"the nearest other image is of the same class for {share:.2f} % of {len(answers)}"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import EMBEDDING

        return EMBEDDING

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        from torch.nn import functional as F

        return F.cosine_similarity(wanted_BK, given_BK, dim=-1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"cosine {agreement:.4f} to the original's embedding of {count} held-out"


TASK = ImageEmbedding()
