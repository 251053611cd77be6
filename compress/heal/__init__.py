"""Healing: train the rewritten model to do what the original does."""

from __future__ import annotations

from compress.heal.heal import Healed, heal
from compress.heal.images import ImageFeed
from compress.heal.objective import Feed, Objective
from compress.heal.options import HealOptions

__all__ = ["Feed", "HealOptions", "Healed", "ImageFeed", "Objective", "heal"]
