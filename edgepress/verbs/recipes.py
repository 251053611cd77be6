"""edgepress recipes [NAME]: the built-in recipes."""

from __future__ import annotations

from pathlib import Path

import compress
from targets.cli import Parser
from targets.errors import InputError, run_cli

#: Read as files: what reads recipes takes seconds to import.
FOLDER = Path(compress.__path__[0]) / "recipes"


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m edgepress.verbs.recipes", description="The recipes that come with edgepress.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this recipe in each of its forms")
    name = parser.parse_args().name
    files = sorted(FOLDER.rglob("*.toml"))
    if name is None:
        for one in sorted({file.stem for file in files}):
            kinds = [str(file.parent.relative_to(FOLDER)) for file in files if file.stem == one]
            print(f"{one:14}{', '.join('images' if kind == '.' else kind for kind in kinds)}")
        return 0
    found = [file for file in files if file.stem == name]
    if not found:
        from compress.spec import unknown

        raise InputError(unknown("recipe", name, {file.stem for file in files}))
    print("\n".join(f"# {file.relative_to(FOLDER)}\n{file.read_text(encoding='utf-8')}" for file in found), end="")
    return 0


if __name__ == "__main__":
    run_cli(main)
