"""edgepress from Python: make a trained transformer smaller, prove what it lost, and open the result.

    import edgepress

    result = edgepress.compress("zoo:vit-mnist", target="cpu")
    print(result)
    assert result, result.reason

Nothing heavy is imported before a function is called. Every error that a user can mend is an `EdgepressError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgepress_siblings import check

if TYPE_CHECKING:
    from edgepress.bundles import Model, open
    from edgepress.compressing import compress
    from edgepress.results import Compressed, Verified
    from edgepress.steps import export, heal, read, rewrite
    from edgepress.verifying import verify
    from edgepress.watching import Cancelled
    from targets.errors import EdgepressError, EnvironmentLacks, GateFailed, InputError

    __version__: str

check(__file__, "compress", "export", "runtime", "targets")

#: Where each name is defined.
_NAMES = {
    "compress": "edgepress.compressing",
    "read": "edgepress.steps",
    "rewrite": "edgepress.steps",
    "heal": "edgepress.steps",
    "export": "edgepress.steps",
    "verify": "edgepress.verifying",
    "open": "edgepress.bundles",
    "Model": "edgepress.bundles",
    "Compressed": "edgepress.results",
    "Verified": "edgepress.results",
    "Cancelled": "edgepress.watching",
    "EdgepressError": "targets.errors",
    "InputError": "targets.errors",
    "EnvironmentLacks": "targets.errors",
    "GateFailed": "targets.errors",
}

__all__ = [
    "Cancelled",
    "Compressed",
    "EdgepressError",
    "EnvironmentLacks",
    "GateFailed",
    "InputError",
    "Model",
    "Verified",
    "compress",
    "export",
    "heal",
    "open",
    "read",
    "rewrite",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("edgepress")
    if name not in _NAMES:
        raise AttributeError(f"module 'edgepress' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_NAMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
