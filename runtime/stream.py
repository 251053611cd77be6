"""The documented place of `Stream`: sequences fed chunk by chunk (see `runtime.streams.stream`)."""

from runtime.streams.stream import Stream

__all__ = ["Stream"]
