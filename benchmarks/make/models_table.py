"""Writes into docs/reference/models.md which of the models that people bring are taken, from a file of measured cases.

python -m benchmarks models-table benchmarks/results/models-taken.json

The file holds `cases`: a name, a kind, a weight by use, what it stands for, the outcome ("works", "refused",
"not measured", ...), the message, the largest difference to the original library's own forward pass, the commit at
which it was measured, and the file that was held against the original: what `ships`, the first `export` of the same
run, which was ended there, or one that was exported `alone`, by the same functions and without the command.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
BEGIN, END = "<!-- taken: begin -->", "<!-- taken: end -->"


def table(cases: list[dict[str, Any]]) -> str:
    """The two tables: by kind, and the refusals by their messages."""
    rows = ["| kind | cases | works | of the weight | largest difference |", "|---|--:|--:|--:|--:|"]
    for kind in [*sorted({case["kind"] for case in cases}), "all"]:
        mine = [case for case in cases if kind in ("all", case["kind"])]
        works = [case for case in mine if case["outcome"] == "works"]
        share = 100 * sum(case["weight"] for case in works) / sum(case["weight"] for case in mine)
        worst = f"{max(case['error'] for case in works):.1e}" if works else ""
        rows.append(f"| {kind} | {len(mine)} | {len(works)} | {share:.0f} % | {worst} |")
    rows += ["", _measured(cases)]
    rest = [case for case in cases if case["outcome"] != "works"]
    rest.sort(key=lambda case: (-case["weight"], case["name"]))
    rows += ["", "| not taken | weight | what is said |", "|---|--:|---|"]
    rows += [f"| {case['name']} | {case['weight']} | {_quoted(case)} |" for case in rest]
    return "\n".join(rows)


def _measured(cases: list[dict[str, Any]]) -> str:
    """At which commits, and on which file."""
    found = Counter((case["commit"], case["file"]) for case in cases if case["outcome"] != "not measured")
    files = {
        "ships": "on the file that ships",
        "export": "on the run's first export",
        "alone": "on a file exported alone",
    }
    parts = [f"{count} at `{commit}` {files[file]}" for (commit, file), count in found.most_common()]
    return f"Measured were {'; '.join(parts)}."


def _quoted(case: dict[str, Any]) -> str:
    message = str(case["message"]).removeprefix("error: ").replace("model/", "").replace("|", "\\|")
    message = message.partition("; there are those of")[0].partition(" (known: ")[0][:150]
    return {"refused": message, "not measured": "not measured"}.get(case["outcome"], f"{case['outcome']}: {message}")


def main(file: str) -> None:
    cases = json.loads(Path(file).read_text(encoding="utf-8"))["cases"]
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(cases)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
