"""Rotary positions by the options of config.json: plain, linear, dynamic, Llama 3, YaRN and LongRoPE.

The frequencies are computed in fp32 as transformers does, since a position multiplies their rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint, finite
from compress.model.rope import RopeSpec
from targets.errors import InputError


def rope_of(checkpoint: Checkpoint, head_dim: int, theta: float = 10000.0, partial: float = 1.0) -> RopeSpec:
    """The rotary positions of all layers. `theta`, `partial`: base, and part of a head that turns, where the config
    does not say. Raises InputError for kinds that are not known."""
    config = checkpoint.config
    table = rope_table(checkpoint, "rope_parameters") or rope_table(checkpoint, "rope_scaling")
    base = {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor")}
    given = {**{name: value for name, value in base.items() if value is not None}, **table}
    return rope_from(checkpoint, {"rope_theta": theta, "partial_rotary_factor": partial, **given}, head_dim)


def rope_table(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A table of the config, {} if it has none. Raises InputError if it is something else."""
    table = checkpoint.config.get(name) or {}
    if not isinstance(table, Mapping):
        raise InputError(f"{checkpoint.folder}/config.json: {name} must be an object, not {table!r}")
    return dict(table)


def rope_from(checkpoint: Checkpoint, table: Mapping[str, Any], head_dim: int) -> RopeSpec:
    """The rotary positions that one table of options describes. Raises InputError."""
    where = f"{checkpoint.folder}/config.json: rope"
    kind = table.get("rope_type", table.get("type")) or "default"
    options = Options(checkpoint, table, where)
    theta, size = options.number("rope_theta"), int(head_dim * options.number("partial_rotary_factor", 1.0))
    if size < 1 or size + size % 2 > head_dim or theta <= 0:
        raise InputError(
            f"{where}: {size} of {head_dim} numbers of a head turn, with base {theta}; that is not a rotation"
        )
    plain_I = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    part = None if 2 * len(plain_I) == head_dim else 2 * len(plain_I)  # an odd part turns one number more
    # Dynamic scaling begins beyond the longest text that the model was made for; until there it is the plain one.
    if kind in ("default", "dynamic"):
        return RopeSpec(theta=theta, size=part, frequencies=tuple(plain_I.tolist()) if size % 2 else None)
    if not isinstance(kind, str) or kind not in _SCALED:
        raise InputError(f"{where}_type {kind!r} is not supported, only default, dynamic, {', '.join(_SCALED)}")
    frequencies_I, gain = _SCALED[kind](plain_I, options)
    return RopeSpec(theta=theta, size=part, frequencies=tuple(frequencies_I.tolist()), gain=gain)


class Options:
    """A table of rotary options with its checkpoint."""

    def __init__(self, checkpoint: Checkpoint, table: Mapping[str, Any], where: str) -> None:
        self.checkpoint, self.table, self.where = checkpoint, table, where

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number. Raises InputError for anything else."""
        value = self.table.get(name)
        number = finite(default if value is None else value, f"{self.where}: {name}")
        if number <= 0:
            raise InputError(f"{self.where}: {name} must be above 0, not {number}")
        return number

    def numbers(self, name: str, count: int) -> Tensor:
        """A list of `count` positive numbers. Raises InputError for anything else."""
        values = self.table.get(name)
        if not isinstance(values, list) or len(values) != count:
            raise InputError(f"{self.where}: {name} must be {count} numbers")
        return torch.tensor([finite(value, f"{self.where}: {name}") for value in values])

    @property
    def trained(self) -> float:
        """The longest text that the positions were made for before they were scaled."""
        outside = self.checkpoint.config.get("original_max_position_embeddings")
        longest = self.checkpoint.config.get("max_position_embeddings")
        known = self.table.get("original_max_position_embeddings", longest) if outside is None else outside
        return finite(known, f"{self.where}: original_max_position_embeddings")


def _linear(plain_I: Tensor, options: Options) -> tuple[Tensor, float]:
    return plain_I / options.number("factor"), 1.0


def _llama3(plain_I: Tensor, options: Options) -> tuple[Tensor, float]:
    """Long waves are stretched, short ones kept, those between blended (Llama 3.1)."""
    factor, trained = options.number("factor"), options.trained
    low, high = options.number("low_freq_factor"), options.number("high_freq_factor")
    wave_I = 2 * math.pi / plain_I
    share_I = (trained / wave_I - low) / (high - low)
    blended_I = (1 - share_I) * plain_I / factor + share_I * plain_I
    long_I = torch.where(wave_I > trained / low, plain_I / factor, plain_I)
    between_I = (wave_I >= trained / high) & (wave_I <= trained / low)
    return torch.where(between_I, blended_I, long_I), 1.0


def _yarn(plain_I: Tensor, options: Options) -> tuple[Tensor, float]:
    """Peng et al. 2023 (arXiv 2309.00071)."""
    factor, theta, trained, size = (
        options.number("factor"),
        options.number("rope_theta"),
        options.trained,
        2 * len(plain_I),
    )

    def pair(turns: float) -> float:
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(options.number("beta_fast", 32.0)), pair(options.number("beta_slow", 1.0))
    if options.table.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp_I = ((torch.arange(size // 2).float() - low) / ((high - low) or 0.001)).clamp(0, 1)
    given = options.table.get("attention_factor")
    scale, whole = options.table.get("mscale"), options.table.get("mscale_all_dim")
    gain = _magnitude(factor, 1.0)
    if given is not None:
        gain = options.number("attention_factor")
    elif scale and whole:
        gain = _magnitude(factor, options.number("mscale")) / _magnitude(factor, options.number("mscale_all_dim"))
    return 1.0 / (factor / plain_I) * ramp_I + plain_I * (1 - ramp_I), gain


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(plain_I: Tensor, options: Options) -> tuple[Tensor, float]:
    """The short factors, which hold for texts up to the trained length (Ding et al. 2024, arXiv 2402.13753)."""
    trained = options.trained
    longest = finite(
        options.checkpoint.config.get("max_position_embeddings", trained), f"{options.where}: longest text"
    )
    factor = options.number("factor", longest / trained)
    gain = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return plain_I / options.numbers("short_factor", len(plain_I)), options.number("attention_factor", gain)


_SCALED: dict[str, Callable[[Tensor, Options], tuple[Tensor, float]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
