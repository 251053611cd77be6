"""Writes into docs/reference/models.md which of the models that people bring are taken, from a file of measured cases.

    python -m benchmarks models-table benchmarks/results/models-taken.json

The other files whose tables stand on pages: real-models.json, quick-families.json and rewrites-families.json.

The file of models that people bring holds `cases`: a name, a kind, a weight by use, what it stands for, the outcome
("works", "refused", "not measured", ...), the message, the largest difference to the original library's own forward
pass, the commit at which it was measured, and the file that was held against the original: what `ships`, the first
`export` of the same run, which was ended there, or one that was exported `alone`, by the same functions and without the
command.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def taken_table(cases: list[dict[str, Any]]) -> str:
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


def real_table(rows: list[dict[str, Any]]) -> str:
    """Trained models by recipe: the metric before and after, how much smaller, what the run took."""
    lines = [
        "| model | recipe | samples | metric: original, shipped, drop at worst | file | seconds | memory | device |",
        "|---|---|--:|---|--:|--:|--:|---|",
    ]
    for row in rows:
        if "lacks" in row:
            lines.append(f"| {row['model']} ({row['what']}) | | | not here: {row['lacks']} | | | | |")
        for recipe in ("identity", "quick"):
            if recipe in row:
                lines.append(f"| {row['model']} ({row['what']}) | `{recipe}` | {_run(row[recipe])} |")
    return "\n".join([*lines, "", _commits(rows)])


def _run(run: dict[str, Any]) -> str:
    took = f"{run['seconds']:.0f} | {run['peak_mb'] / 1000:.1f} GB"
    if "metrics" not in run:
        return f" | {_plain(run['said'])} | | {took} | "
    name, metric = next(iter(run["metrics"].items()))
    said = f"{name} {metric['reference']:.4g}, {metric['candidate']:.4g}, {metric['interval'][1]:.2g}"
    smaller = run["files"]["original fp32"] / run["files"][run["judged"]]
    return f"{run['samples']} | {said} | {smaller:.1f}x smaller | {took} | {_device(run)}"


def families_table(rows: list[dict[str, Any]]) -> str:
    """Tiny models: whether the recipe ended in a bundle that a device opens."""
    lines = ["| case | bundle | self-test and answer on the device |", "|---|---|---|"]
    lines += [f"| {row['case']} | {_bundle(row)} | {_device(row)} |" for row in rows]
    return "\n".join([*lines, "", _commits(rows)])


def _bundle(row: dict[str, Any]) -> str:
    if "files" not in row:
        return _plain(row["said"])
    return f"{row['files'][row['judged']]:,} bytes of {row['files']['original fp32']:,}"


def _device(row: dict[str, Any]) -> str:
    asked = row.get("device", {})
    return "both" if asked and all(one["exit"] == 0 for one in asked.values()) else "no"


def _commits(rows: list[dict[str, Any]]) -> str:
    return f"Measured at {', '.join(f'`{commit}`' for commit in dict.fromkeys(row['commit'] for row in rows))}."


def _plain(text: str) -> str:
    return text.removeprefix("error: ").replace("|", "\\|")[:150]


def rewrites_table(found: dict[str, dict[str, str]]) -> str:
    """Rewrites by families: yes, or the number of the reason below."""
    reasons: list[str] = []
    names = list(found)
    lines = [f"| rewrite | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for use in next(iter(found.values())):
        cells = []
        for name in names:
            said = found[name][use]
            if said != "works" and (reason := _reason(use, said)) not in reasons:
                reasons.append(reason)
            cells.append("yes" if said == "works" else str(reasons.index(_reason(use, said)) + 1))
        lines.append(f"| {use} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{place}. {reason}" for place, reason in enumerate(reasons, start=1))])


def _reason(use: str, said: str) -> str:
    """The refusal without the name of the rewrite and the numbers of layers."""
    plain = re.sub(r"^(rewrite )?'?[a-z-]+'?:? ?(is )?", "", said) if use in said[: len(use) + 12] else said
    return re.sub(r"\b\d+\b", "N", plain.removeprefix("refused").lstrip(": ")).replace("|", "\\|")


#: What a file holds -> the page, the name of its marks there, and the table.
TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "cases": ("models.md", taken_table),
    "real": ("models.md", real_table),
    "families": ("models.md", families_table),
    "rewrites": ("rewrites.md", rewrites_table),
}


def main(*files: str) -> None:
    for file in files:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
        key = next(key for key in TABLES if key in document)
        name, table = TABLES[key]
        page = DOCS / name
        begin, end = f"<!-- {key}: begin -->", f"<!-- {key}: end -->"
        before, _, rest = page.read_text(encoding="utf-8").partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n{table(document[key])}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
