"""All metrics by name, collected from the kinds of answers."""

from __future__ import annotations

from collections.abc import Iterable

from compress.verification.kinds import kinds
from compress.verification.metric import Metric


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Kinds may share a metric. Raises ValueError for two metrics of one name, one of which would hide the other."""
    found: dict[str, Metric] = {}
    for metric in metrics:
        if found.setdefault(metric.name, metric) != metric:
            raise ValueError(f"two metrics have the name {metric.name!r}; give one of them another")
    return found


METRICS: dict[str, Metric] = by_name(metric for kind in kinds() for metric in kind.metrics)


def needs(metric: Metric) -> str:
    """The kinds of samples that it can be computed of, in words."""
    *others, last = (kind.kind for kind in kinds() if metric in kind.metrics)
    return f"{', '.join(others)} or {last}" if others else last
