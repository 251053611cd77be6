"""The kinds of answers, one file each: what a model says of a sample, how that is judged, compared and shown.

Adding a kind means adding a file with a subclass of `Samples`; it is found by its place.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from compress.verification.samples import Samples


@cache
def kinds() -> tuple[type[Samples], ...]:
    """All kinds that have a name, in the order of their files and their places there."""
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Samples) and value.__module__ == module.__name__
    )
