"""Depth estimation: how far away each pixel is, judged by how far the maps are the original's.

B batch, Y and X height and width, P pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.files import rows_of_files
from compress.tasks.images import ImageTask, PreparedImages, at_once
from compress.tasks.task import Prepared, Tell
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.depths import DepthMaps
    from compress.verification.samples import Samples

OUTPUT = "predicted_depth"
#: Rows and columns of a map that are judged at most, evenly spread: neighbouring pixels tell the same.
_JUDGED = 64


class DepthEstimation(ImageTask):
    """Maps of depth. Any images are good for it, whatever the classes: what is wanted are the original's maps."""

    name = "depth-estimation"
    architectures = ("ForDepthEstimation",)
    head = "depth"
    auto_class = "AutoModelForDepthEstimation"
    outputs = (OUTPUT,)
    dims, usual = 3, OUTPUT
    graph = "depth estimator (one input of 4 dimensions, predicted_depth of 3)"
    metric = "depth_delta1"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> DepthMaps:
        import numpy as np

        from compress.verification.kinds.depths import DepthMaps

        assert isinstance(data, PreparedImages)
        size = batch or at_once(data.preprocessing)
        depths = rows_of_files(run, data, size, tell, lambda outputs, count: _judged(outputs[OUTPUT], count))
        return DepthMaps(depths, np.zeros_like(depths))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.depths import DepthMaps

        assert isinstance(answers, DepthMaps)
        depths = answers.depths
        return f"depths from {depths.min():.4g} to {depths.max():.4g} in {len(answers)} images"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import DEPTH

        return DEPTH

    def agreement(self, wanted_BYX: Tensor, given_BYX: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        apart_B = (wanted_BYX - given_BYX).float().abs().mean(dim=(1, 2))
        return 1 - (apart_B / wanted_BYX.float().abs().mean(dim=(1, 2)).clamp(min=1e-12)).clamp(max=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"within {100 * (1 - agreement):.2f} % of the original's depth on {count} held-out"


def _judged(depth_BYX: np.ndarray, batch: int) -> np.ndarray:
    """float32 [B, P]: the pixels that are judged."""
    import numpy as np

    if depth_BYX.ndim != 3 or len(depth_BYX) != batch:
        shape = list(depth_BYX.shape)
        raise InputError(f"the model gives outputs of shape {shape}; maps [batch, height, width] are needed")
    rows, columns = (np.unique(np.linspace(0, size - 1, _JUDGED).astype(np.int64)) for size in depth_BYX.shape[1:])
    return np.asarray(depth_BYX[:, rows[:, None], columns], np.float32).reshape(batch, -1)


TASK = DepthEstimation()
