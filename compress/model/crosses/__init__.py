"""Kinds of cross-attention: what a decoder's tokens read of an encoder's. One file per kind; each registers itself."""

from __future__ import annotations

from compress.spec import import_all

import_all(__name__, list(__path__))
