"""edgepress models: what is read, and what comes with the package."""

from __future__ import annotations

from targets.cli import Parser
from targets.errors import run_cli


def main() -> int:
    """Run the command line; the exit code."""
    Parser(
        prog="python -m edgepress.verbs.models", description="The kinds of models that are read, and the zoo."
    ).parse_args()
    from compress.families import known_types
    from compress.zoo import DATA

    print(f"read from a folder, by model_type of config.json:\n  {', '.join(sorted(known_types()))}")
    print("zoo (data):")
    for name, data in sorted(DATA.items()):
        print(f"  zoo:{name:14}{data}")
    return 0


if __name__ == "__main__":
    run_cli(main)
