"""Do the tests notice a wrong line? Small changes are made to the code that judges, and the tests must fail on each.

    python -m benchmarks mutants [FILE ...] [--most 40] [--seed 0] [--workers 16] [--minutes 8]

writes benchmarks/results/mutants.json: of each file how many mutants its tests killed, and the ones that live. Every
trial is a line of `--rows` as soon as it ended. With the same rows again, what was killed is not tried again and what
lived is. A mutant is one changed comparison, operator, number, truth value, or a dropped `not`. It is never written to
a file: each is imported in a process of its own. Several can be tried at once, and no git is needed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.lab import record
from benchmarks.lab.mutation import changed, changes

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).parents[1] / "results" / "mutants.json"
JUDGES = ("statistics", "gate", "estimate", "power", "sequential", "early", "distinct", "outcome", "metric", "drift")
#: What is changed, and the tests that are there for it. Of these a file gets the ones in which it runs.
GROUPS: dict[tuple[str, ...], tuple[str, ...]] = {
    tuple(f"compress/verification/{name}.py" for name in JUDGES): ("tests/verification/test_*.py",),
    ("compress/data/splits.py",): ("tests/data/test_splits.py", "tests/data/test_image_data.py"),
    ("compress/rewrites/*.py",): ("tests/rewrites/test_*.py", "tests/search/test_choices.py"),
}
#: These start programs, which would not see a change.
LEFT_OUT = ("tests/verification/test_ci.py",)
#: What the tests import in any case: done once, before the mutants are tried.
WARM = (
    "numpy", "scipy.optimize", "scipy.special", "scipy.stats", "sklearn.metrics", "pydantic", "hypothesis", "pytest",
    "torch", "torch.export", "safetensors.torch", "PIL.Image", "onnx", "onnxruntime", "jinja2",
)  # fmt: skip
#: pytest's exit code where there was nothing to fail.
NONE_RAN = 5


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.name, self.file = module_of(file), ROOT / file
        self.code = compile(ast.fix_missing_locations(tree), str(self.file), "exec")

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.file, loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


class _Changed:
    """Puts the changed module in front of whatever the tests' own settings put in front."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader

    def pytest_collection(self) -> None:
        sys.meta_path.insert(0, self.loader)


class _Seen:
    """Keeps which tests failed and which modules ran in the tests."""

    def __init__(self, file: Path) -> None:
        self.file, self.failed = file, set[str]()

    def pytest_collection_finish(self) -> None:
        importlib.import_module("support.marks").RAN.clear()

    def pytest_collectreport(self, report: Any) -> None:
        self._keep(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._keep(report)

    def _keep(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        ran = importlib.import_module("support.marks").RAN
        self.file.write_text(json.dumps({"failed": sorted(self.failed), "ran": sorted(ran)}))


@dataclass(frozen=True)
class Trial:
    """What is imported in place of the files: a file with one change, or none."""

    file: str
    place: int = 0
    line: int = 0
    what: str = ""
    trees: Callable[[], Mapping[str, ast.Module]] = dict


@dataclass(frozen=True)
class Tests:
    """Files of tests, the ones in them that fail without any change, and the CPU seconds that a mutant may take."""

    files: tuple[str, ...]
    failing: tuple[str, ...] = ()
    limit: float = 60.0


@dataclass(frozen=True)
class Ended:
    """How the tests ended: the exit code, a signal's below zero, and the CPU time in seconds."""

    code: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.code in (0, NONE_RAN)


def module_of(file: str) -> str:
    """The name by which a file is imported."""
    return file.removesuffix(".py").replace("/", ".")


def ends(jobs: Iterator[tuple[Trial, Tests, Path | None]], workers: int, until: float) -> Iterator[tuple[Trial, Ended]]:
    """Run jobs, at most `workers` at once, until the time has come; what still runs then is ended and not given."""
    running: dict[int, tuple[Trial, float]] = {}
    while True:
        while len(running) < workers and time.monotonic() < until and (job := next(jobs, None)):
            pid = _start(*job)
            running[pid] = (job[0], time.monotonic() + 60 + 3 * job[1].limit)
        if not running:
            return
        over = time.monotonic() >= until
        for pid, (_, latest) in running.items():
            if over or time.monotonic() > latest:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        pid, status, used = os.wait4(-1, os.WNOHANG)
        if pid in running:
            trial, _ = running.pop(pid)
            if not over:
                yield trial, Ended(os.waitstatus_to_exitcode(status), round(used.ru_utime + used.ru_stime, 2))
        elif not pid:
            time.sleep(0.02)


def _start(trial: Trial, tests: Tests, seen: Path | None) -> int:
    """Begin the tests in a process group of their own; its number."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it has ended
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    os._exit(_run(trial, tests, seen))


def _run(trial: Trial, tests: Tests, seen: Path | None) -> int:
    import pytest
    from hypothesis import settings

    signal.setitimer(signal.ITIMER_PROF, tests.limit)  # ends the process: a mutant that never ends is a killed one
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        settings.register_profile("mutants", database=None)
        settings.load_profile("mutants")
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
        options += [f"--deselect={test}" for test in (*LEFT_OUT, *tests.failing)]
        plugins: list[Any] = [_Changed(_Loader(file, tree)) for file, tree in trial.trees().items()]
        plugins += [_Seen(seen)] if seen else []
        return int(pytest.main([*options, *([] if seen else ["-x"]), *tests.files], plugins=plugins))
    except BaseException:  # noqa: BLE001 - a mutant may raise anything at all, while it is imported too
        return 1


def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def _same(files: Sequence[str]) -> dict[str, ast.Module]:
    return {file: _tree(file) for file in files}


def _without(file: str) -> dict[str, ast.Module]:
    return {file: ast.parse("raise ImportError")}


def _mutant(file: str, place: int) -> dict[str, ast.Module]:
    return {file: changed(_tree(file), place)}


def looked_at(names: Sequence[str]) -> dict[str, list[str]]:
    """File to change -> the tests of its group, for the named files or for all."""
    groups = {
        str(file.relative_to(ROOT)): [str(test.relative_to(ROOT)) for name in tests for test in sorted(ROOT.glob(name))]
        for files, tests in GROUPS.items()
        for pattern in files
        for file in sorted(ROOT.glob(pattern))
    }
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise SystemExit(f"no tests are listed for {unknown[0]}; GROUPS in benchmarks/product/mutants.py lists them")
    return {file: groups[file] for file in names or groups}


def measured(files: dict[str, list[str]], workers: int, until: float, most: float) -> dict[str, Tests]:
    """File to change -> the tests in which it runs, the quick ones first, `most` CPU seconds of them.

    They run twice without a change: to see what runs, and imported as mutants are, to see what fails in any case.
    """
    every = sorted({test for tests in files.values() for test in tests} - set(LEFT_OUT))
    same = partial(_same, list(files))
    with tempfile.TemporaryDirectory() as folder:
        places = {(test, way): Path(folder) / f"{way}-{at}.json" for at, test in enumerate(every) for way in (0, 1)}
        jobs = (
            (Trial(test, trees=same if way else dict), Tests((test,), limit=most), place)
            for (test, way), place in places.items()
        )
        seconds = {trial.file: ended.seconds for trial, ended in ends(jobs, workers, until)}
        seen = {key: json.loads(place.read_text()) for key, place in places.items() if place.is_file()}
    twice = [test for test in every if (test, 0) in seen and (test, 1) in seen]
    failing = {test: {*seen[test, 0]["failed"], *seen[test, 1]["failed"]} for test in twice}
    whole = sorted((test for test in failing if test not in failing[test]), key=seconds.__getitem__)
    chosen = {}
    for file, tests in files.items():
        here = [test for test in whole if test in tests]
        here = [test for test in here if module_of(file) in seen[test, 0]["ran"]] or here
        ends_at = list(itertools.accumulate(seconds[test] for test in here))
        here = [test for test, end in zip(here, ends_at, strict=True) if end <= most]
        bad = tuple(sorted(name for test in here for name in failing[test]))
        chosen[file] = Tests(tuple(here), bad, 10 + 2 * sum(seconds[test] for test in here))
    return {file: tests for file, tests in chosen.items() if tests.files}


def drawn(files: Sequence[str], most: int, seed: int) -> dict[str, tuple[int, list[Trial]]]:
    """File -> how many mutants it has, and a seeded choice of them."""
    trials = {}
    for file in files:
        every = [Trial(file, at, *one, partial(_mutant, file, at)) for at, one in enumerate(changes(_tree(file)))]
        trials[file] = len(every), random.Random(seed).sample(every, min(most, len(every)))
    return trials


def in_turn(trials: dict[str, tuple[int, list[Trial]]], seed: int) -> list[Trial]:
    """The judges first, all of them; then the others in a seeded order, so that a stop leaves a fair sample."""
    judges, others = [], []
    for file, (_, chosen) in trials.items():
        (others if file.startswith("compress/rewrites/") else judges).extend(chosen)
    random.Random(seed).shuffle(judges)
    random.Random(seed).shuffle(others)
    return judges + others


def summary(trials: dict[str, tuple[int, list[Trial]]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """File -> its mutants, how many were tried and killed, and the ones that live."""
    files = {}
    for file, (number, _) in trials.items():
        tried = [row for row in rows if row["file"] == file]
        alive = sorted((row["line"], row["what"]) for row in tried if not row["killed"])
        files[file] = {
            "mutants": number,
            "tried": len(tried),
            "killed": len(tried) - len(alive),
            "alive": [f"line {line}: {what}" for line, what in alive],
        }
    return files


def _with() -> str:
    """What it is tried with: the rows may be from another machine than the result."""
    return ", ".join(
        [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "numpy"))]
    )


def _digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()[:12]


def _known(place: Path, digests: dict[str, str]) -> dict[tuple[str, int], dict[str, Any]]:
    """What is in the rows about files as they are, by what was changed; a later row replaces an earlier one."""
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.is_file() else []
    return {(row["file"], row["place"]): row for row in rows if digests.get(row["file"]) == row["digest"]}


def tried(args: argparse.Namespace, trials: dict[str, tuple[int, list[Trial]]]) -> list[dict[str, Any]]:
    """Try what is not known to be killed, write each row as it comes, and give all rows of these files."""
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    files = looked_at(args.files)
    digests = {file: _digest(file) for file in files}
    known = _known(args.rows, digests)
    left = [one for one in in_turn(trials, args.seed) if not known.get((one.file, one.place), {}).get("killed")]
    changing = {file: files[file] for file in files if any(one.file == file for one in left)}
    tests = measured(changing, args.workers, until, args.test_seconds)
    for file, of in tests.items():
        print(
            f"{file}: {len(of.files)} files of tests, limit {of.limit:.0f} s, {len(of.failing)} fail in any case",
            file=sys.stderr,
        )
    without = (Trial(file, trees=partial(_without, file)) for file in tests)
    jobs = ((trial, tests[trial.file], None) for trial in without)
    reached = {trial.file for trial, ended in ends(jobs, args.workers, until) if not ended.passed}
    for file in {one.file for one in left} - reached:
        print(f"{file}: not tried, for no tests were seen to fail without it", file=sys.stderr)
    jobs = ((trial, tests[trial.file], None) for trial in left if trial.file in reached)
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    with args.rows.open("a") as rows:
        for trial, ended in ends(jobs, args.workers, until):
            row = {"file": trial.file, "place": trial.place, "line": trial.line, "what": trial.what}
            row |= {
                "killed": not ended.passed,
                "code": ended.code,
                "seconds": ended.seconds,
                "digest": digests[trial.file],
                "with": _with(),
            }
            rows.write(json.dumps(row) + "\n")
            rows.flush()
            known[trial.file, trial.place] = row
            if ended.passed:
                print(f"{trial.file}, line {trial.line}: lives: {trial.what}", file=sys.stderr)
    return list(known.values())


def main() -> int:
    """Run the command line; 1 if fewer than 95 % of the mutants that were tried were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--most", type=int, default=1000, help="mutants of a file at most, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="mutants that are tried at once")
    parser.add_argument("--minutes", type=float, default=0, help="stop after this time; 0: no end")
    parser.add_argument("--test-seconds", type=float, default=300, help="CPU time of the tests of a file, at most")
    parser.add_argument("--rows", type=Path, default=ROOT / "out" / "mutants.jsonl")
    args = parser.parse_args()
    args.rows = args.rows.absolute()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in WARM:
        importlib.import_module(name)
    trials = drawn(list(looked_at(args.files)), args.most, args.seed)
    rows = tried(args, trials)
    files = summary(trials, rows)
    number = sum(of["tried"] for of in files.values())
    killed = sum(of["killed"] for of in files.values())
    for file, of in files.items():
        print(f"{file}: {of['killed']} of {of['tried']} tried are killed, of {of['mutants']} in all", file=sys.stderr)
    print(f"{killed} of {number} tried are killed, of {sum(of['mutants'] for of in files.values())}", file=sys.stderr)
    passed = bool(number) and killed >= 0.95 * number
    if not (ROOT / ".git").exists():
        print(f"no git here, so only {args.rows} is written; the same command in a clone sums it up", file=sys.stderr)
        return 0 if passed else 1
    result = {
        "command": record.command("mutants"),
        "seed": args.seed,
        "tried_with": sorted({row["with"] for row in rows}),
    }
    record.save(RESULT, result | {"killed_share": round(killed / max(number, 1), 4), "files": files})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
