"""Source families: each file reads one kind of checkpoint into the canonical transformer. No forward code here."""

from __future__ import annotations

from compress.families.family import check_known, known_types, read_checkpoint
from compress.spec import import_all

import_all(__name__, list(__path__))

__all__ = ["check_known", "known_types", "read_checkpoint"]
