"""All metrics by name, collected from the kinds of answers."""

from __future__ import annotations

from compress.verification.kinds import kinds
from compress.verification.metric import Metric

METRICS: dict[str, Metric] = {metric.name: metric for kind in kinds() for metric in kind.metrics}


def needs(metric: Metric) -> str:
    """The kinds of samples that it can be computed of, in words."""
    *others, last = (kind.kind for kind in kinds() if metric in kind.metrics)
    return f"{', '.join(others)} or {last}" if others else last
