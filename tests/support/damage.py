"""Models that were damaged on purpose, and what a model answers to a data set."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from compress.judging.questions import questions_of
from compress.model import load, save
from compress.verification.samples import Samples


def hurt(folder: Path, destination: Path, size: float) -> Path:
    """A copy of the model with noise of this size in its second block."""
    shutil.copytree(folder, destination)
    model = load(folder)
    with torch.no_grad():
        for parameter in model.block(1).parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save(model, destination)
    return destination


def answers_of(folder: Path, data: Path) -> Samples:
    """What the model answers to all of the data."""
    questions = questions_of(str(folder), str(folder), str(data), "all")
    return questions.answers(questions.sides[0])
