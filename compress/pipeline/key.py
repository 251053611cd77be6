"""The key of a stage's result: a digest of everything that the result depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.pipeline.artifact import Artifact
from compress.pipeline.digest import digest_of, library_versions
from compress.pipeline.digest.reach import Code
from compress.pipeline.stage import Stage

_FORMAT = 2  # of a cache entry; a new number leaves all old entries behind


@dataclass(frozen=True)
class Key:
    """Where a result is kept: the stage's kind and the digest of `ingredients`."""

    kind: str
    digest: str
    ingredients: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, kind: str, ingredients: Mapping[str, Any]) -> Key:
        """The key that these ingredients make."""
        return cls(kind, digest_of(ingredients), ingredients)


class Keymaker:
    """Makes the keys of one run.

    It reads code and library versions once, at the start: code that is edited while a long stage runs
    is not the code that this process has loaded. `memo` makes that faster (see `Code`).
    """

    def __init__(self, stages: Iterable[Stage], seed: int, memo: Path | None = None) -> None:
        stages = tuple(stages)
        self._source = Code(memo)
        libraries = {name for stage in stages for name in stage.libraries}
        self._seed = seed
        self._code = {function: self._source.reached(function) for function in {stage.function for stage in stages}}
        self._versions = library_versions(libraries)

    def remember(self) -> None:
        """Write what was found of the code to the memo."""
        self._source.remember()

    def key(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Key:
        """The key of `stage` on these input artifacts (parameter -> artifact)."""
        ingredients = {
            "format": _FORMAT,
            "kind": stage.kind,
            "produces": stage.produces.__name__,
            "run": f"{stage.function.__module__}:{stage.function.__qualname__}",
            "options": stage.written_options,
            "sources": stage.sources,
            "code": self._code[stage.function],
            "libraries": {name: self._versions[name] for name in stage.libraries},
            "seed": self._seed,
            "inputs": {parameter: artifact.digest for parameter, artifact in inputs.items()},
        }
        return Key.of(stage.kind, ingredients)
