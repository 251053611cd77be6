"""What every command line shares."""

from __future__ import annotations

import argparse
from typing import NoReturn

from targets.errors import InputError


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are told in one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError; argparse would print the usage and leave."""
        raise InputError(f"{message}; see {self.prog} --help")
