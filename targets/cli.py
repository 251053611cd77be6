"""What every command line shares."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from targets.errors import InputError


def program(name: str) -> str:
    """What the user typed to get here: `edgepress VERB`, else the name itself."""
    return sys.argv[0] if sys.argv[0].startswith("edgepress ") else name


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are reported in one line, as all others are."""

    def __init__(self, *, prog: str, **options: Any) -> None:
        super().__init__(prog=program(prog), **options)

    def error(self, message: str) -> NoReturn:
        """Raises InputError; argparse would print the usage and leave."""
        raise InputError(f"{message}; see {self.prog} --help")
