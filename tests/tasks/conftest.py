"""Every stage that a test of a task runs in its own process is watched."""

from support.watched import keys_cover_what_runs

__all__ = ["keys_cover_what_runs"]
