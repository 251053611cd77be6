"""Device profiles: one TOML file per device, a strict loader and the compatibility table."""

from targets.spec import Engine, Hardware, Power, PowerMode, Precision, Profile, Software, Target
from targets.table import load, load_all, names

__all__ = [
    "Engine",
    "Hardware",
    "Power",
    "PowerMode",
    "Precision",
    "Profile",
    "Software",
    "Target",
    "load",
    "load_all",
    "names",
]
