"""Models that were damaged on purpose, and what a model answers to a data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compress.judging.questions import Questions, questions_of
from compress.model import load, save
from compress.verification.outcome import Status
from compress.verification.report_data import ReportData
from compress.verification.samples import Samples
from compress.verify import Options, evaluate


def hurt(folder: Path, destination: Path, size: float) -> Path:
    """A copy of the model with noise of this size in its second block."""
    shutil.copytree(folder, destination)
    model = load(folder)
    with torch.no_grad():
        for parameter in model.block(1).parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save(model, destination)
    return destination


def hurt_tensors(folder: Path, destination: Path, size: float, which: Callable[[str], bool]) -> Path:
    """A copy of a Hugging Face folder with noise of this size on the tensors of these names."""
    shutil.copytree(folder, destination)
    state, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in filter(which, sorted(state)):
        state[name] = state[name] + size * torch.randn(state[name].shape, generator=generator)
    save_file(state, destination / "model.safetensors", {"format": "pt"})
    return destination


def judged_when_hurt(
    folder: Path, data: Path, place: Path, size: float, task: str, metric: str
) -> tuple[Status, float, float]:
    """What `verify` says of a copy in `place` with noise of this size in its layers: the verdict at 20 points, and the
    metric of the original and of the copy."""
    side = hurt_tensors(folder, place / str(size), size, lambda name: ".layer." in name)
    report = evaluate(Options(str(folder), str(side), str(data), part="all", max_drop=20.0)).report
    assert report.task == task and report.drift is not None
    main = report.drift.metric(metric)
    assert main is not None and main.reference is not None and main.candidate is not None
    return report.verdict, main.reference, main.candidate


def questions_about(folder: Path, data: Path) -> Questions:
    """All that is asked of a model, about all of the data."""
    return questions_of(str(folder), str(folder), str(data), "all")


def report_on_noise(original: Path, ours: Path, data: Path, place: Path, size: float) -> ReportData:
    """What a check says of the original and a copy of our model with noise of this size, at 5 points allowed."""
    side = hurt(ours, place / str(size), size)
    return evaluate(Options(str(original), str(side), str(data), part="all", max_drop=5.0)).report


def answers_of(folder: Path, data: Path) -> Samples:
    """What the model answers to all of the data."""
    questions = questions_about(folder, data)
    return questions.answers(questions.sides[0])
