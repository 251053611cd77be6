"""A Hugging Face feature extractor's settings, read into the bundle's `preprocessing` section.

Covers AST's. What one of them says and the section cannot hold is an error, never left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.json_files import read_object
from runtime.sounds.spectrogram import KIND, RATE, parse_preprocessing
from targets.errors import InputError

_TYPE = "ASTFeatureExtractor"
#: What a file leaves out, as in transformers 5: means and deviations are those of AudioSet.
_DEFAULTS = {
    "num_mel_bins": 128,
    "max_length": 1024,
    "sampling_rate": RATE,
    "do_normalize": True,
    "mean": -4.2677393,
    "std": 4.5689974,
}


def spectrogram_from_hf(folder: Path, note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The `preprocessing` section for a model folder's `preprocessor_config.json` (or the `feature_extractor` of its
    `processor_config.json`).

    Without them: the sizes of config.json and the means of AudioSet, which `note` reports. Raises InputError for a
    setting that the section cannot hold.
    """
    found = _settings(folder)
    if found is None:
        path, config = folder / "config.json", read_object(folder / "config.json")
        sizes = ("num_mel_bins", "max_length")
        given: dict[str, Any] = {key: value for key, value in config.items() if key in sizes}
        note(f"{folder} has no preprocessor_config.json: spectrograms are scaled by the mean of AudioSet, as for AST")
    else:
        path, given = found
        kind = given.get("feature_extractor_type", _TYPE)
        if kind != _TYPE:
            raise InputError(f"{path}: the feature extractor is {kind!r}; allowed: {_TYPE}")
    settings = {**_DEFAULTS, **{key: value for key, value in given.items() if value is not None}}
    plain = settings["do_normalize"] is False
    section = {
        "kind": KIND,
        "rate": settings["sampling_rate"],
        "bins": settings["num_mel_bins"],
        "frames": settings["max_length"],
        "mean": 0.0 if plain else _number(path, "mean", settings["mean"]),
        "std": 1.0 if plain else 2 * _number(path, "std", settings["std"]),  # AST divides by twice of it
    }
    parse_preprocessing(section, str(path))
    return section


def has_settings(folder: Path) -> bool:
    """Whether a folder says how recordings are prepared. Raises InputError for a damaged file."""
    return _settings(folder) is not None


def _settings(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The extractor's own settings and the file that they are in, by the order of transformers."""
    path = folder / "processor_config.json"
    nested = read_object(path).get("feature_extractor") if path.exists() else None
    if isinstance(nested, dict):
        return path, nested
    path = folder / "preprocessor_config.json"
    return (path, read_object(path)) if path.exists() else None


def _number(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: {key} is {value!r}; allowed: a number")
    return float(value)
