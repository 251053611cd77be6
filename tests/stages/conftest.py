"""Every stage that a test of this folder runs in its own process is watched: its key has to cover what it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from watched import modules_run

from compress.pipeline import Artifact, Runner, Stage, StageContext
from compress.pipeline.key import Key


@pytest.fixture(scope="session", autouse=True)
def keys_cover_what_runs() -> Iterator[None]:
    make = Runner._make

    def watched(self: Runner, stage: Stage, key: Key, inputs: Mapping[str, Artifact]) -> Artifact:
        def run(context: StageContext, **inputs: Artifact) -> None:
            with modules_run() as ran:
                stage.run(context, **inputs)
            missed = sorted(ran - key.ingredients["code"].keys())
            assert not missed, f"stage {stage.name} ran {', '.join(missed)}, which its key does not cover"

        return make(self, replace(stage, run=run), key, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_make", watched)
        yield
