"""Digests of what a stage's result depends on: values, files, source code and library versions."""

from __future__ import annotations

from compress.pipeline.digest.tree import digest_tree
from compress.pipeline.digest.values import digest_of, library_versions

__all__ = ["digest_of", "digest_tree", "library_versions"]
