"""Rewrites: each file holds one method, a small options record and a function from a model to a new model."""

from __future__ import annotations

from compress.rewrites.calibration import Calibration
from compress.rewrites.rewrite import REWRITES, Options, Rewrite, export_forms, options_in, parse_options, run_rewrite
from compress.rewrites.stacks import STACKS
from compress.spec import import_all

import_all(__name__, list(__path__))

__all__ = [
    "REWRITES",
    "STACKS",
    "Calibration",
    "Options",
    "Rewrite",
    "export_forms",
    "options_in",
    "parse_options",
    "run_rewrite",
]
