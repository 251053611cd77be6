"""What a store tells that came back from a device, as a page: its bundles, and the records that commands left in it.

What is in a record says which one it is: results of `--watch` and of a shadow are JSON Lines, metrics are the text
format of Prometheus.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from runtime.bundles.manifest import load_manifest
from runtime.field.store import Store
from runtime.files import explain, parse_json
from targets.errors import InputError

_SHOWN = 20  # classes, differences and errors at most
_BUCKET = re.compile(r'edgepress_latency_seconds_bucket\{le="([^"]+)"\} (\d+)')
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: .5em 0 } td, th { padding: .2em .8em; text-align: left }
tr { border-bottom: 1px solid #ddd } .note { color: #666 }"""


@dataclass(frozen=True)
class Table:
    """Rows below a title; `note`: what to know of them."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    note: str = ""


def tables_of(store: Store) -> list[Table]:
    """What there is to tell of a store. Raises InputError for what is none, or cannot be read."""
    if store.current() is None:
        raise InputError(f"no store at {store.root}; give the folder that runtime.deploy made")
    found = [_bundles(store)]
    for path in sorted(store.root.iterdir()):
        if re.search(r"\.jsonl(\.1)?$", path.name):
            found += _records(path)
        elif path.suffix == ".prom":
            found.append(_metrics(path))
    return found


def page_of(store: Store, tables: Iterable[Table]) -> str:
    """The tables as one page of HTML that needs no other file."""
    body = "".join(map(_table, tables))
    title = f"Field report of {html.escape(store.root.resolve().name)}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><h1>{title}</h1>{body}</body></html>\n'


def _table(table: Table) -> str:
    def row(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(_shown(cell))}</{tag}>" for cell in cells) + "</tr>"

    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    rows = "".join(row(cells, "td") for cells in table.rows)
    return f"<h2>{html.escape(table.title)}</h2>{note}<table>{row(table.head, 'th')}{rows}</table>"


def _shown(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _bundles(store: Store) -> Table:
    rows: list[tuple[object, ...]] = []
    for name in reversed(store.history()):
        manifest = load_manifest(store.path(name))
        precision = manifest.models[0].precision
        what = (manifest.task, manifest.target.name, precision, manifest.verdict, manifest.edgepress)
        rows.append((name, "current" if not rows else "before", *what))
    return Table("Bundles", ("id", "", "task", "target", "precision", "gate", "edgepress"), rows)


def _records(path: Path) -> list[Table]:
    """Tables of one file of JSON Lines; none for a file of something else."""
    lines, spoilt = _read(path)
    note = f"{spoilt} lines could not be read." if spoilt else ""
    shadowed = [line for line in lines if "shadowed" in line]
    results = [line for line in lines if "shadowed" not in line and "input" in line]
    tables = [
        *(_shadow(path.name, shadowed, note) if shadowed else ()),
        *(_results(path.name, results, note) if results else ()),
    ]
    return tables


def _results(name: str, lines: Sequence[dict[str, Any]], note: str) -> Iterator[Table]:
    failed = [line for line in lines if "error" in line]
    counts = (len(lines), len(lines) - len(failed), len(failed))
    yield Table(f"Results in {name}", ("inputs", "answered", "failed"), [counts], note)
    tops = [top for line in lines if (top := _top(line)) is not None]
    if tops:
        sure: dict[str, list[float]] = {}
        for top in tops:
            sure.setdefault(str(top["label"]), []).append(float(top["probability"]))
        common = Counter({label: len(values) for label, values in sure.items()}).most_common(_SHOWN)
        rows = [(label, n, n / len(tops), mean(sure[label]), min(sure[label])) for label, n in common]
        yield Table(f"Classes in {name}", ("class", "inputs", "share", "mean certainty", "least"), rows)
    if failed:
        yield Table(f"Failed in {name}", ("input", "error"), [(one["input"], one["error"]) for one in failed[-_SHOWN:]])


def _shadow(name: str, lines: Sequence[dict[str, Any]], note: str) -> Iterator[Table]:
    rows = []
    for shadow in dict.fromkeys(str(line.get("shadow")) for line in lines):
        some = [line for line in lines if str(line.get("shadow")) == shadow]
        last = some[-1]
        told = (last["shadowed"], last.get("differing"), last.get("allowed"), last.get("verdict"))
        rows.append(
            (
                shadow,
                *told,
                *(_of(median, some, key) for key in ("ms", "shadow_ms")),
                *(_of(mean, some, key) for key in ("confidence", "shadow_confidence")),
            )
        )
    head = ("shadow", "inputs", "differing", "allowed", "verdict", "ms", "its ms", "certainty", "its certainty")
    yield Table(f"Shadow in {name}", head, rows, f"Medians of ms, means of certainty. {note}".strip())
    apart = [line for line in lines if line.get("same") is False][-_SHOWN:]
    if apart:
        keys = ("input", "confidence", "shadow_confidence", "error")
        rows = [tuple(line.get(key) for key in keys) for line in apart]
        yield Table(f"Last differences in {name}", ("input", "certainty", "its certainty", "error"), rows)


def _metrics(path: Path) -> Table:
    """Values, and the ends of the buckets that hold the median and the slowest of a hundred."""
    text = _text(path)
    pairs = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    rows: list[tuple[object, ...]] = [(name, value) for name, _, value in pairs if "_bucket" not in name]
    buckets = [(end, int(count)) for end, count in _BUCKET.findall(text)]
    for share, told in ((0.5, "half"), (0.99, "99 of 100")):
        if buckets and buckets[-1][1]:
            end = next(end for end, count in buckets if count >= share * buckets[-1][1])
            rows.append((f"{told} of the inputs took at most, in seconds", end))
    return Table(f"Metrics in {path.name}", ("name", "value"), rows)


def _of(how: Callable[[list[float]], float], lines: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [float(line[key]) for line in lines if isinstance(line.get(key), int | float)]
    return how(values) if values else None


def _top(line: dict[str, Any]) -> dict[str, Any] | None:
    """The likeliest class of a result, where it has one with a probability."""
    top = line.get("top")
    first = top[0] if isinstance(top, list) and top else None
    is_class = isinstance(first, dict) and isinstance(first.get("probability"), float) and "label" in first
    return first if is_class else None


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file of JSON Lines, and how many lines hold something else."""
    found, spoilt = [], 0
    for line in _text(path).splitlines():
        try:
            value = parse_json(line.encode())
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            spoilt += 1
    return found, spoilt


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise explain(error, path) from error
