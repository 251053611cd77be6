"""Text models as the two sides of a comparison: opened and asked, each with the tokenizer that it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress import tasks, zoo
from compress.tasks.task import DataChoice
from compress.tasks.text import TextTask
from compress.verification.sides import Side, golden_check, is_predictions, weights_size
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.verification.predictions import Samples

    Arrays = dict[str, np.ndarray]
    Run = Callable[[Mapping[str, np.ndarray]], Arrays]


@dataclass(frozen=True)
class _Described:
    """What a task has to know of a model; a bundle's manifest says no more."""

    labels: tuple[str, ...]
    hidden_size: int
    preprocessing: Mapping[str, Any]


@dataclass(frozen=True)
class _Opened:
    side: Side
    task: TextTask
    described: Any
    files: Path
    run: Run


def is_text_model(spec: str) -> bool:
    """Is it a model or bundle for a task on texts?"""
    if is_predictions(spec) or spec.endswith(".onnx"):
        return False
    path = zoo.locate(spec)
    if not path.exists():
        return False
    return isinstance(tasks.get(_bundle_task(path)) if _is_bundle(path) else tasks.of_folder(path), TextTask)


def ask(
    spec: str, data: str, part: Literal["evaluation", "all"], advance: Callable[[int], None]
) -> tuple[Side, Samples]:
    """The side and its answers to the texts. Raises InputError or EnvironmentLacks if it cannot be asked."""
    path = zoo.locate(spec)
    opened = _bundle(spec, path) if _is_bundle(path) else _folder(spec, path)
    choice = DataChoice(data, None, False, 0)
    # Not the task's own `open`: which states a graph has is the graph's business, see `_completed`.
    texts = TextTask.open(opened.task, choice, part, opened.described, opened.files)  # type: ignore[arg-type]
    before = 0

    def tell(done: int, **numbers: float) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return opened.side, opened.task.answers(opened.run, texts, opened.described, tell)


def _is_bundle(path: Path) -> bool:
    return path.is_file() or (path / "manifest.json").is_file()


def _bundle_task(path: Path) -> str:
    from runtime.bundle import open_files

    return open_files(path).manifest.task


def _text_task(name: str) -> TextTask:
    task = tasks.get(name)
    if not isinstance(task, TextTask):
        raise InputError(f"the task {name} is not on texts; compare it with a model of its own kind")
    return task


def _bundle(name: str, path: Path) -> _Opened:
    from compress.data import seen
    from runtime.session import open_bundle

    session = open_bundle(path)
    manifest, root = session.manifest, session.bundle.root
    if manifest.preprocessing is None:
        raise InputError(f"{name} does not say how a text becomes its input; make the bundle again")
    record, width = root / seen.NAME, manifest.outputs[0].shape[-1]
    side = Side(
        name,
        "bundle",
        _not_asked,
        bytes=(root / session.model.path).stat().st_size,
        runs_on=session.describe(),
        seen=seen.read(record) if record.is_file() else None,
        golden=golden_check(session),
    )
    described = _Described(manifest.labels or (), int(width), manifest.preprocessing)
    declared = [tensor.name for tensor in manifest.inputs]
    return _Opened(
        side, _text_task(manifest.task), described, root, lambda inputs: session.run(_completed(inputs, declared))
    )


def _folder(name: str, path: Path) -> _Opened:
    """A checkpoint or a compressed model, with its tokenizer beside it."""
    import torch

    from compress.families import read_checkpoint
    from compress.model import load

    task = _text_task(tasks.of_folder(path).name)
    compressed = (path / "structure.json").is_file()
    model = load(path) if compressed else read_checkpoint(path, task.preprocessing(path, lambda text: None))

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode():
            answer = model({key: torch.from_numpy(array) for key, array in inputs.items()})
        return {output: answer.numpy() for output in task.outputs}

    side = Side(
        name,
        "compressed model" if compressed else "model folder",
        _not_asked,
        bytes=weights_size(path),
        runs_on=f"torch {torch.__version__}",
        parameters=model.num_parameters(),
    )
    return _Opened(side, task, model.structure, path, run)


def _completed(inputs: Mapping[str, np.ndarray], declared: list[str]) -> Arrays:
    """The inputs that a graph declares; positions count the real tokens. States start fresh in the session."""
    whole = {**inputs, "position_ids": (inputs["attention_mask"].cumsum(axis=1) - 1).clip(min=0)}
    return {name: whole[name] for name in declared if name in whole}


def _not_asked(pixels: Any) -> Any:
    raise AssertionError("a text model is asked through its task")
