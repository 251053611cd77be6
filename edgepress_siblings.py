"""The packages of edgepress have plain names, so that a user's own `export.py` or `targets/` can be taken for one.

Each package asks here whether its siblings are its own before it imports any. This module stands outside of them all,
for a package that is hidden cannot say so.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def check(package: str, *siblings: str) -> None:
    """`package` is the `__file__` of the package that asks. Nothing is imported: the user's file does not run.

    Raises ImportError for a sibling that would be taken from elsewhere; `python -m` ends with that line and code 2.
    """
    home = Path(package).absolute().parents[1]
    for name in siblings:
        found = _place(name)
        if found is None or found in (home / name, home / name / "__init__.py"):
            continue
        told = f"{found} hides the package {name} of edgepress in {home}; rename it, or run from another folder"
        if sys.argv[:1] != ["-m"]:  # what Python puts there until it has found the module to run
            raise ImportError(told)
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)


def _place(name: str) -> Path | None:
    """The file or folder that an import of this name would read."""
    spec = find_spec(name)
    if spec is None:
        return None
    return Path(spec.origin or next(iter(spec.submodule_search_locations or [name]))).absolute()
