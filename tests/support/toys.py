"""Small artifact types, stages and graphs for the tests, and counters on disk of what really ran.

Nothing here may end up in an artifact but what the stage was given: counters are named by environment variables.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.pipeline import Artifact, Graph, Stage, StageContext

_TOP = Path(__file__).parents[1 + (__package__ or "").count(".")]
_CODE = os.pathsep.join([str(_TOP), str(Path(__file__).parents[2])])
_COMMAND = ["env", f"PYTHONPATH={_CODE}", sys.executable, "-m"]  # stages get the same module names, so keys, as here
TOY_RUN = [*_COMMAND, f"{__package__}.toy_run"]
TOY_KILL = [*_COMMAND, f"{__package__}.toy_kill"]


class Text(Artifact):
    def read(self) -> str:
        return (self.path / "text.txt").read_text()


class Number(Artifact):
    def read(self) -> int:
        return int((self.path / "number.txt").read_text())


def tally(word: str) -> None:
    """Append a word to the file in $TOY_TALLY, if there is one."""
    if "TOY_TALLY" in os.environ:
        with Path(os.environ["TOY_TALLY"]).open("a") as stream:
            stream.write(word + "\n")


def write_text(context: StageContext, text: str) -> None:
    (context.folder / "text.txt").write_text(text)


def combine(context: StageContext, **inputs: Text) -> None:
    """label(input, input, ...), with the inputs in the order of their parameters."""
    label = context.options.get("label", "")
    tally(label)
    write_text(context, f"{label}({','.join(inputs[name].read() for name in sorted(inputs))})")


def shout(context: StageContext, **inputs: Text) -> None:
    """Another function with another result."""
    write_text(context, "!".join(artifact.read() for artifact in inputs.values()))


def count_letters(context: StageContext, text: Text) -> None:
    tally("count")
    (context.folder / "number.txt").write_text(str(len(text.read())))


def walk(context: StageContext, **inputs: Text) -> None:
    """Takes `steps` steps of `pause` seconds, each kept in `work` by an atomic rename; tallies each step."""
    checkpoint = context.work / "steps.txt"
    steps = checkpoint.read_text() if checkpoint.exists() else ""
    while len(steps) < context.options["steps"]:
        time.sleep(context.options["pause"])
        steps += "."
        tally(context.stage)
        (context.work / "new.txt").write_text(steps)
        (context.work / "new.txt").replace(checkpoint)
        context.progress(len(steps), context.options["steps"], "walking", seconds=0.5)
    (context.folder / "deep" / "er").mkdir(parents=True)
    (context.folder / "deep" / "er" / "noise.bin").write_bytes(bytes(range(256)) * 20)
    write_text(context, f"{context.stage}:{steps}" + "".join(artifact.read() for artifact in inputs.values()))


def stage(name: str, run: Callable[..., None] = combine, inputs: Mapping[str, str] | None = None, **more: Any) -> Stage:
    """A stage from texts to a text that says its own name, unless told otherwise."""
    fields: dict[str, Any] = {"options": {"label": name}, "produces": Text, "does": f"does {name}", "why": "toy"}
    return Stage(name=name, run=run, inputs=inputs or {}, **(fields | more))


def chain() -> Graph:
    """a -> b -> count."""
    return Graph(
        [
            stage("a"),
            stage("b", inputs={"text": "a"}),
            stage("count", count_letters, {"text": "b"}, produces=Number),
        ]
    )


def walk_graph(steps: int, pause: float) -> Graph:
    """A diamond with a tail, of stages that keep checkpoints."""
    options = {"steps": steps, "pause": pause}
    links: dict[str, dict[str, str]] = {
        "source": {},
        "left-1": {"text": "source"},
        "right-2": {"text": "source"},
        "join": {"left": "left-1", "right": "right-2"},
        "tail": {"text": "join"},
    }
    return Graph([stage(name, walk, inputs, options=options) for name, inputs in links.items()])


def short_walk() -> Graph:
    """Two stages that keep checkpoints, without pauses."""
    options = {"steps": 2, "pause": 0}
    return Graph([stage("a", walk, options=options), stage("b", walk, {"x": "a"}, options=options)])


def snapshot(root: Path) -> dict[str, bytes]:
    """Relative path -> content of every file below `root`."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
