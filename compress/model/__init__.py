"""The canonical transformer: `Structure` says what it is made of, `load` and `save` keep it in a folder."""

from __future__ import annotations

from compress.model.files import load, save
from compress.model.structure import Step, Structure
from compress.model.transformer import Transformer

__all__ = ["Step", "Structure", "Transformer", "load", "save"]
