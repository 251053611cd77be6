"""edgepress rewrites [NAME]: what may be done to a model's architecture."""

from __future__ import annotations

from targets.cli import Parser
from targets.errors import InputError, run_cli


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m edgepress.verbs.rewrites", description="Changes of a model's architecture.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="show the options of this rewrite")
    name = parser.parse_args().name
    from compress.rewrites import REWRITES
    from compress.spec import unknown
    from edgepress.options import rows_of

    if name is None:
        for one, method in sorted(REWRITES.items()):
            print(f"{one:24}{'exact  ' if method.exact else '       '}{method.summary}")
        return 0
    if name not in REWRITES:
        raise InputError(unknown("rewrite", name, REWRITES))
    print(f"{name}: {REWRITES[name].summary}")
    for option in rows_of(REWRITES[name].options):
        print(f"  {option.name:18}{option.kind:28}{option.default}")
    return 0


if __name__ == "__main__":
    run_cli(main)
