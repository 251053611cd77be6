"""`edgepress.compress`: the whole way, from a trained model to a gated bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.watching import Cancel, Progress, sinks_for

if TYPE_CHECKING:
    from edgepress.results import Compressed


def compress(
    model: Any = None,
    data: Any = None,
    *,
    target: str,
    recipe: str | Path = "quick",
    processor: Any = None,
    out: str | Path = "out",
    max_drop: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    cache: bool = True,
    progress: Progress = True,
    cancel: Cancel | None = None,
) -> Compressed:
    """Shrink, heal, export, verify and bundle a trained transformer; the result is true if the gate passed.

    `model`: a folder, `zoo:NAME`, a name on the Hugging Face hub, or a live model of `transformers`, which wants its
    `processor` (or tokenizer) as well. `data`: what `--data` takes, or a `datasets` data set, a torch `Dataset`, arrays
    or lists (see `edgepress.given.data`); zoo models bring their own. `target`: a device of `edgepress targets list`.
    `recipe`: a built-in recipe or a TOML file; `settings` change values of it, such as `{"heal.steps": 200}`.
    `out`: where bundle/ and report/ go. `max_drop`: the gate, in points of the task's metric.
    `cache`: False uses nothing of earlier runs and keeps nothing. `progress`: True shows the run on standard error,
    False shows nothing, a function is handed every event (`compress.pipeline.events`). `cancel`: anything with
    `is_set()`, such as a `threading.Event`; the run then stops at its next step.

    Raises InputError for a wrong argument or input, EnvironmentLacks where the machine lacks something, Cancelled. A
    gate that does not pass raises nothing: look at the result, or call its `check()`.
    """
    from compress.stages.graph import build_graph
    from compress.verification.report_data import ReportData
    from compress.whole import cache_for, carry_out, job_of, overrides
    from edgepress.given import data as datas
    from edgepress.given import models
    from edgepress.results import Compressed

    sinks = sinks_for(progress, cancel)
    with cache_for(not cache) as store:
        source = models.source_of(model, processor, store.root)
        given = overrides(written(settings or {}), source, datas.source_of(data, store.root), max_drop)
        job = job_of(target, str(recipe), given, seed, store)
        outcome = carry_out(build_graph(job), store, seed, Path(out), sinks)
    report = Path(outcome.report)
    found = ReportData.from_json((report.parent / "report.json").read_text(encoding="utf-8"))
    return Compressed(found, Path(outcome.bundle), report)


def written(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them: `heal.steps=200`."""
    return [f"{name}={_toml(value)}" for name, value in settings.items()]


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    import json

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
