"""The names of the classes, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.integrate import Made

if TYPE_CHECKING:
    from export.integrate import Golden
    from runtime.bundles.manifest import Manifest

TITLE = "Names of classes"
FILE = "labels.txt"


def made(manifest: Manifest, golden: Golden) -> Made:
    """A line for each class, in the order of the outputs."""
    if manifest.labels is None:
        return Made("The model has no classes with names.")
    lines = [" ".join(label.split()) for label in manifest.labels]
    return Made("One a line, in the order of the outputs.", {FILE: "".join(f"{line}\n" for line in lines)})
