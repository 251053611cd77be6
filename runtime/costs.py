"""python -m runtime.costs: how long the small models of a search take on this machine, for `compress.search --costs`.

`python -m compress.search ... --write-probes FOLDER` writes the small models; this measures them on the device, with
numpy and ONNX Runtime alone. Of a bundle it measures the files that ship.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from runtime.bench import measure, random_inputs
from runtime.files import check_no_pipe, parse_json, sha256_of, write_atomic
from targets.cli import Parser
from targets.errors import EnvironmentLacks, InputError, run_cli

PROBES = "probes.json"
SCHEMA = 1
#: Every file is measured this often, in turn, for this many seconds each: the median of rounds a machine's mood apart.
ROUNDS, SECONDS = 3, 0.1
_MAX_THREADS = 64
#: Tokens of a sequence, of a bundle.
LENGTH = 128


@dataclass(frozen=True)
class Plan:
    """What is to be measured: files by the names that a search knows them by, for a target in one precision, each with
    up to `threads` threads on the first of `backends` that runs here; `length` of sequences."""

    target: str
    precision: str
    backends: tuple[str, ...]
    threads: int
    length: int
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Cost:
    """Of one file: its SHA-256, and the median milliseconds of a run by the number of threads."""

    sha256: str
    ms: dict[str, float]


@dataclass(frozen=True)
class Costs:
    """`rows` by the names of the plan; measured on the processor `cpu` by `backend`."""

    target: str
    precision: str
    cpu: str
    backend: str
    rows: dict[str, Cost]

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Costs:
        """Raises InputError for a file that no version of this command wrote."""
        check_no_pipe(path)
        try:
            table = parse_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the costs {path}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON, so it holds no costs: {error}") from error
        try:
            if table["schema"] != SCHEMA:
                raise InputError(
                    f"{path} has schema {table['schema']!r}; measure again with this version (schema {SCHEMA})"
                )
            rows = {name: Cost(row["sha256"], _times(row["ms"])) for name, row in table["rows"].items()}
            texts = [str(table[name]) for name in ("target", "precision", "cpu", "backend")]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path} holds no costs that python -m runtime.costs wrote: {error!r}") from error
        return cls(texts[0], texts[1], texts[2], texts[3], rows)


def _times(table: Mapping[str, Any]) -> dict[str, float]:
    times = {str(int(count)): float(ms) for count, ms in table.items()}
    if not times or not all(0 < ms < float("inf") for ms in times.values()):
        raise ValueError("times must be above 0")
    return times


def measured(plan: Plan, tell: Callable[[int, int, str], None]) -> Costs:
    """Measure every file of a plan, one at a time. Raises EnvironmentLacks if no backend of it runs here."""
    from runtime.measuring.compare import thread_counts
    from runtime.measuring.power import cpu_name
    from targets.machine import usable_cpus

    name = _backend(plan.backends)
    counts = thread_counts(min(plan.threads, usable_cpus(), _MAX_THREADS))
    found: dict[str, dict[int, list[float]]] = {key: {count: [] for count in counts} for key in plan.files}
    for turn in range(ROUNDS):
        keys = list(plan.files) if turn % 2 == 0 else list(plan.files)[::-1]
        for place, key in enumerate(keys):
            tell(turn * len(keys) + place, ROUNDS * len(keys), key)
            for count in counts:
                found[key][count].append(_once(name, plan.files[key], plan, count))
    rows = {
        key: Cost(sha256_of(plan.files[key]), {str(count): median(times) for count, times in by_count.items()})
        for key, by_count in found.items()
    }
    return Costs(plan.target, plan.precision, cpu_name(), name, rows)


def _once(backend: str, file: Path, plan: Plan, threads: int) -> float:
    from runtime import backends

    model = backends.get(backend).open(backends.Opening(file, plan.precision, threads=threads))
    return median(measure(model, random_inputs(model.inputs, 1, plan.length), SECONDS))


def _backend(names: Sequence[str]) -> str:
    """The first that takes files and runs here."""
    from runtime import backends

    lacks = {}
    for name in names:
        backend = backends.get(name)
        if backend.form == "engine":
            lacks[name] = "its engines are built from a bundle, not from these files"
            continue
        lack = backend.lacks()
        if lack is None:
            return name
        lacks[name] = lack
    raise EnvironmentLacks(f"nothing here runs these files: {'; '.join(f'{one}: {why}' for one, why in lacks.items())}")


def read_plan(folder: Path) -> Plan:
    """The plan in a folder of small models, or of a bundle. Raises InputError."""
    from runtime.bundles.bundle import open_files
    from runtime.bundles.manifest import NAME

    if (folder / NAME).is_file():
        manifest = open_files(folder, None).manifest
        files = {model.path: folder / model.path for model in manifest.models}
        section = manifest.target
        backends = tuple(section.backends) or ("cpu",)
        return Plan(section.name, section.precision or "fp32", backends, section.threads or 1, LENGTH, files)
    try:
        table = parse_json((folder / PROBES).read_bytes())
        files = {str(key): folder / Path(name).name for key, name in table["files"].items()}
        plan = Plan(
            str(table["target"]),
            str(table["precision"]),
            tuple(map(str, table["backends"])),
            int(table["threads"]),
            int(table["length"]),
            files,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is not a bundle and holds no {PROBES} of compress.search --write-probes ({type(error).__name__})"
        ) from error
    missing = [path.name for path in plan.files.values() if not path.is_file()]
    if missing or not plan.files:
        raise InputError(f"{folder} lacks {missing[0] if missing else 'files to measure'}; copy the whole folder again")
    return plan


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m runtime.costs", description=str(__doc__).splitlines()[0].partition(": ")[2])
    parser.add_argument("folder", metavar="BUNDLE|FOLDER", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="where the costs go (JSON)")
    args: argparse.Namespace = parser.parse_args()

    def tell(done: int, total: int, name: str) -> None:
        print(f"\r{done + 1} of {total} measurements", end="", file=sys.stderr, flush=True)

    costs = measured(read_plan(args.folder), tell)
    print(file=sys.stderr)
    write_atomic(args.out, costs.to_json().encode())
    print(f"{args.out}: {len(costs.rows)} files, {costs.backend}, {costs.cpu}")
    return 0


if __name__ == "__main__":
    run_cli(main)
