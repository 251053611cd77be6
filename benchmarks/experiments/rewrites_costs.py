"""Bytes and latency of every row of a table of rewrites, written into the table.

Usage, from the root of the repository:
    python -m benchmarks rewrites-costs files RESULT.json FOLDER    # RESULT as benchmarks.rewrites_vit makes it
    python -m benchmarks rewrites-costs time RESULT.json FOLDER     # on an idle machine

`files` exports each row, rewritten and not healed (neither bytes nor latency depend on it), as the CPU's file in fp32
and in dynamic int8; a file that is there stays, so a run that is cut goes on. `time` puts `bytes`, `int8_bytes`,
`int8_ms` and `int8_speedup` (against the original's fp32 file, each at its fastest count of threads) into the rows.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from compress.model import Transformer
from compress.stages.export import in_export_form
from export.cpu_graph import optimize_for_cpu
from export.onnx_model import export_onnx
from export.precision.int8_dynamic import to_int8_dynamic
from runtime.measuring.compare import time_alternating

FEW = 64
ORIGINAL = "original"
DATA = {"vit-cifar10": "zoo:cifar10-test", "vit-mnist": "zoo:mnist-test"}


def files(args: argparse.Namespace) -> None:
    """Export what is not there yet."""
    document = json.loads(args.result.read_text())
    args.folder.mkdir(parents=True, exist_ok=True)
    model = vit_lab.original(document["model"])
    images = vit_lab.training_parts(DATA[document["model"]])[0].subset(np.arange(FEW))
    calibration = vit_lab.calibration_of(model, vit_lab.prepared(images, model, "cpu").images, [])
    _export(model, args.folder, ORIGINAL)
    for row in document["rows"]:
        if "refused" not in row and not _path(args.folder, row["row"], "int8").exists():
            student = vit_lab.rewritten(model, row["rewrite"], calibration)
            _export(
                in_export_form(student, calibration)[0],
                args.folder,
                row["row"],
            )
            print(row["row"], flush=True)


def _path(folder: Path, name: str, form: str) -> Path:
    return folder / f"{name}.{form}.onnx"


def _export(model: Transformer, folder: Path, name: str) -> None:
    embed = model.structure.embed.model_dump()
    example = {"pixel_values": torch.zeros(2, embed["channels"], *embed["image_size"])}
    plain = _path(folder, name, "plain")
    export_onnx(model, example, ["logits"], {"pixel_values": {0: "batch"}}, plain)
    optimize_for_cpu(plain, _path(folder, name, "fp32"))
    to_int8_dynamic(_path(folder, name, "fp32"), _path(folder, name, "int8"))


def time(args: argparse.Namespace) -> None:
    """Time the int8 files in alternating processes, and write the table anew."""
    document = json.loads(args.result.read_text())
    rows = [row for row in document["rows"] if _path(args.folder, row["row"], "int8").exists()]
    timed = {ORIGINAL: _path(args.folder, ORIGINAL, "plain")}
    timed |= {row["row"]: _path(args.folder, row["row"], "int8") for row in rows}
    found = time_alternating(timed, rounds=args.rounds, seconds=args.seconds, threads=os.cpu_count())
    for row in rows:
        costs: dict[str, Any] = {
            "bytes": _path(args.folder, row["row"], "plain").stat().st_size,
            "int8_bytes": _path(args.folder, row["row"], "int8").stat().st_size,
            "int8_ms": round(found["median_ms"][row["row"]], 3),
            "int8_speedup": round(found["speedup"][row["row"]], 3),
        }
        row |= costs
    document["original"] |= {"bytes": timed[ORIGINAL].stat().st_size, "ms": round(found["median_ms"][ORIGINAL], 3)}
    document["costs"] = {"command": record.command("rewrites-costs"), **record.surroundings()}
    record.save(args.result, document)


def main() -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run in (("files", files), ("time", time)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("result", type=Path)
        verb.add_argument("folder", type=Path)
    verb.add_argument("--rounds", type=int, default=3)
    verb.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
