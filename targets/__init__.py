"""Device profiles: one TOML file per device, a strict loader and the compatibility table."""

import os

import edgepress_siblings  # noqa: F401 - before all else: it sees to Ctrl-C
from targets.spec import Engine, Hardware, Power, PowerMode, Precision, Profile, Software, Target
from targets.table import load, load_all, names

# ONNX Runtime 1.32 sends usage data from Linux and keeps a device ID and a database in the home folder. No device must
# do that unasked; every package here imports this one, so the line runs before ONNX Runtime's own import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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
