"""python -m edgepress: the command `edgepress`."""

from __future__ import annotations

from edgepress.command import main

if __name__ == "__main__":
    main()
