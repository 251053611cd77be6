"""Errors of the stage graph itself."""

from __future__ import annotations

from targets.errors import InputError


class GraphError(InputError):
    """The graph, or what one of its stages left behind, breaks the rules. The message names the stage."""
