"""Pose estimation: where the keypoints of one person or thing lie, judged by how far they are the original's.

B batch, C keypoints, Y and X height and width of a map.
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
    from compress.verification.kinds.keypoints import FoundKeypoints
    from compress.verification.samples import Samples

OUTPUT = "heatmaps"


class PoseEstimation(ImageTask):
    """Places of keypoints. Images of one person each are good for it, in folders of whatever classes: what is wanted
    are the original's places."""

    name = "pose-estimation"
    architectures = ("ForPoseEstimation",)
    head = "keypoints"
    auto_class = "AutoModelForPoseEstimation"
    outputs = (OUTPUT,)
    dims, usual = 4, OUTPUT
    graph = "pose estimator (one input of 4 dimensions, heatmaps of 4)"
    metric = "pck"

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "peaks"}

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> FoundKeypoints:
        import numpy as np

        from compress.verification.kinds.keypoints import FoundKeypoints

        assert isinstance(data, PreparedImages)
        size = batch or at_once(data.preprocessing)
        found = rows_of_files(run, data, size, tell, lambda outputs, count: _found(outputs[OUTPUT], count))
        points, scores = found[..., :2], found[..., 2]
        return FoundKeypoints(points, scores, np.zeros_like(points), np.zeros_like(scores))

    def headline(self, answers: Samples) -> str:
        from compress.verification.kinds.keypoints import FoundKeypoints

        assert isinstance(answers, FoundKeypoints)
        keypoints = answers.scores.shape[1]
        return f"{keypoints} keypoints of {len(answers)} images, {answers.scores.mean():.3f} sure on average"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import KEYPOINTS

        return KEYPOINTS

    def agreement(self, wanted_BCYX: Tensor, given_BCYX: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        same_BC = wanted_BCYX.flatten(2).argmax(dim=2) == given_BCYX.flatten(2).argmax(dim=2)
        return same_BC.float().mean(dim=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"{100 * agreement:.1f} % of the keypoints in the original's cell of the map, {count} held-out"


def _found(maps_BCYX: np.ndarray, batch: int) -> np.ndarray:
    """float32 [B, C, 3]: place and score of each keypoint."""
    import numpy as np

    from runtime.images.keypoints import peaks

    if maps_BCYX.ndim != 4 or len(maps_BCYX) != batch:
        shape = list(maps_BCYX.shape)
        raise InputError(f"the model gives outputs of shape {shape}; maps [batch, keypoints, height, width] are needed")
    points, scores = peaks(np.asarray(maps_BCYX, np.float32))
    return np.concatenate([points, scores[..., None]], axis=-1)


TASK = PoseEstimation()
