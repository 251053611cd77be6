"""The toys of the device side's tests, whose folder bears the name of a package of the project."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "runtime"))
