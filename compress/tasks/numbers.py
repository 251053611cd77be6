"""What tasks of one number per sample share. B batch, K = 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.tasks.task import Task
from compress.tasks.text import one_output

if TYPE_CHECKING:
    from torch import Tensor

    from compress.heal.objective import Objective
    from compress.model import Structure
    from compress.verification.samples import Samples


class NumberTask(Task):
    """Judged by the rank correlation of its numbers with those that the data have."""

    head = "score"
    outputs = ("logits",)
    metric = "spearman"

    def claims(self, config: Mapping[str, object]) -> bool:
        return one_output(config) and config.get("problem_type") in (None, "regression")

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"Spearman x 100 of {len(answers)} {self.noun}: {METRICS[self.metric].value(answers):.2f}"

    @property
    def objective(self) -> Objective:
        from compress.heal.objective import NUMBERS

        return NUMBERS

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return 1 / (1 + (wanted_BK - given_BK).float().abs()[:, 0])

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"1 / (1 + difference from the original's number) is {agreement:.4f} on {count} held-out"
