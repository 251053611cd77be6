"""python -m runtime.report: a page of what a store tells that came back from a device."""

from __future__ import annotations

from pathlib import Path

from targets.cli import Parser
from targets.errors import run_cli


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(
        prog="python -m runtime.report",
        description="Write a page (HTML) of a store's bundles and of the records that commands left in it.",
    )
    parser.add_argument("store", metavar="STORE", type=Path, help="a store, or a copy of one")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: STORE/report.html)")
    args = parser.parse_args()
    from runtime.field.report import page_of, tables_of
    from runtime.field.store import Store
    from runtime.files import write_atomic

    store, out = Store(args.store), args.out or args.store / "report.html"
    write_atomic(out, page_of(store, tables_of(store)).encode())
    print(out)
    return 0


if __name__ == "__main__":
    run_cli(main)
