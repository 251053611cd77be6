"""The whole way from what a user asks for to a bundle and its verdict, for the command and for Python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.pipeline import Cache, Graph
    from compress.pipeline.events import Sink
    from compress.stages.job import Job
    from compress.stages.outcome import Outcome


def overrides(
    settings: Iterable[str] | None,
    model: str | None = None,
    data: str | None = None,
    max_drop: float | None = None,
    check: bool = True,
) -> list[str]:
    """The `table.key=value` settings of a recipe, and those that have an option of their own."""
    found = list(settings or [])
    found += [f"model.source={json.dumps(model)}"] if model is not None else []
    found += [f"data.source={json.dumps(data)}"] if data is not None else []
    found += [f"gate.max_drop={max_drop}"] if max_drop is not None else []
    return [*found, *([] if check else ["model.check=false"])]


def job_of(target: str, recipe: str, settings: Sequence[str], seed: int, cache: Cache) -> Job:
    """What is to be done. Raises InputError for an unknown target, recipe or setting, and for a missing model."""
    import targets
    from compress.recipe import load_for_model
    from compress.stages.job import Job

    name = Path(recipe).stem if recipe.endswith(".toml") else recipe
    return Job(load_for_model(recipe, settings), name, targets.load(target), seed, cache.root / "digests.json")


@contextmanager
def cache_for(throw_away: bool) -> Iterator[Cache]:
    """The user's cache, or an empty one that is gone afterwards."""
    from compress.pipeline import Cache

    if not throw_away:
        yield Cache()
        return
    from compress.data.prints import remembered_in

    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder, remembered_in(Path(folder)):
        yield Cache(Path(folder))


def carry_out(graph: Graph, cache: Cache, seed: int, out: Path, sinks: Sequence[Sink] = ()) -> Outcome:
    """Run every stage that is not cached, and put bundle, report and log.jsonl into `out`.

    Raises InputError, also for an `out` that holds something else, EnvironmentLacks, and what a sink raises.
    """
    from compress.pipeline import Runner
    from compress.pipeline.log import JsonLog
    from compress.stages.outcome import check_out, deliver

    check_out(out)
    return deliver(Runner(graph, cache, [*sinks, JsonLog(out / "log.jsonl")], seed=seed).run(), out)
