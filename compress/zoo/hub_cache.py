"""Folders of the hub's cache, as `hf download` leaves them: `models--OWNER--NAME`, with snapshots of links."""

from __future__ import annotations

import os
from pathlib import Path

from targets.errors import InputError


def usual_form(folder: Path) -> Path:
    """The folder itself, or for a folder of the hub's cache the snapshot that `refs/main` names, or the only one.
    Raises InputError where that is not clear."""
    if not (folder / "snapshots").is_dir() or (folder / "config.json").exists():
        return folder
    found = sorted(one for one in (folder / "snapshots").iterdir() if one.is_dir())
    main = folder / "refs" / "main"
    name = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    chosen = [one for one in found if one.name == name] or (found if len(found) == 1 else [])
    if not chosen:
        names = ", ".join(one.name for one in found) or "none"
        raise InputError(
            f"{folder} is of the hub's cache; refs/main names none of its snapshots ({names}); give one of them"
        )
    return chosen[0]


def snapshot_of(name: str) -> Path | None:
    """The folder of a model of the hub, OWNER/NAME, in this user's cache; None where it is not there."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{name.replace('/', '--')}"
    return usual_form(folder) if (folder / "snapshots").is_dir() else None
