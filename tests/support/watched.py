"""Which modules of the project run code, and that the key of a stage covers those that it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from compress.pipeline import Artifact, Runner, Stage, StageContext
from compress.pipeline.key import Key
from support import marks


@contextmanager
def modules_run() -> Iterator[set[str]]:
    """The modules, but those of the pipeline, of which code runs meanwhile, in whatever thread."""
    assert marks.are_in("compress.pipeline.key")
    found: set[str] = set()
    marks.RAN.clear()
    yield found
    found |= {name for name in marks.RAN if not name.startswith("compress.pipeline")}


@pytest.fixture(scope="session", autouse=True)
def keys_cover_what_runs() -> Iterator[None]:
    """Every stage that runs in this process is watched: its key has to cover what it runs."""
    make = Runner._make

    def watched(self: Runner, stage: Stage, key: Key, inputs: Mapping[str, Artifact], mark: str) -> Artifact:
        def run(context: StageContext, **inputs: Artifact) -> None:
            with modules_run() as ran:
                stage.run(context, **inputs)
            missed = sorted(ran - key.ingredients["code"].keys())
            assert not missed, f"stage {stage.name} ran {', '.join(missed)}, which its key does not cover"

        return make(self, replace(stage, run=run), key, inputs, mark)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_make", watched)
        yield
