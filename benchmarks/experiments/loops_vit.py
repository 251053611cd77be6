"""Looped weight-tying of vit-cifar10: the sweep, the long healing of the best, and the sizes of the files.

Usage, from the root of the repository:
    python -m benchmarks loops-vit run vit-cifar10 DATA FOLDER      # the sweep; start several to share its rows
    python -m benchmarks loops-vit cross vit-cifar10 DATA FOLDER --steps 0      # everything with everything
    python -m benchmarks loops-vit collect FOLDER RESULT.json       # --brief leaves out what a row's name tells
    python -m benchmarks loops-vit heal DATA OUT --candidate NAME --seconds 450      # one GPU
    python -m benchmarks loops-vit choose OUT...                    # the best by held-out training images
    python -m benchmarks loops-vit test DATA OUT                    # on the test images, once, for the chosen one
    python -m benchmarks loops-vit files RESULT.json FOLDER [ROW...] [--engines]      # bytes in every form, CPU
    python -m benchmarks loops-vit time RESULT.json FOLDER [FILE...]      # adds the latency of these files, CPU
    python -m benchmarks loops-vit table SWEEP.json RESULT.json     # both at equal bytes and at equal latency, Markdown
    python -m benchmarks loops-vit crossed CROSS.json               # of `cross`, Markdown

The sweep crosses grouping, initialization, what a loop has of its own, and its rank, before and after the same short
healing (see `rewrites-vit`), with dropped blocks and affine patches beside them at equal bytes (`bytes.*`)
and at equal depth, which is equal latency (`depth.*`). `heal` writes the model (fp16) and heal.json; candidates hold at
most a third of the original's block parameters, deltas counted. A ROW of `files` is an OUT; or a row of the sweep or
a candidate, not healed, whose files are a little smaller, as gains that are still all ones are stored once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments import rewrites_vit
from benchmarks.experiments.rewrites_vit import Row, Tables
from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from benchmarks.product.engines import untie
from benchmarks.train import full_recipe_vit
from compress.model import Structure, Transformer, load
from compress.stages.export import in_export_form
from export.cpu_graph import optimize_for_cpu
from export.onnx_model import export_onnx
from export.precision.fp16 import to_fp16
from export.precision.int8_dynamic import to_int8_dynamic
from export.precision.int8_static import to_int8_static
from export.scan import roll_loops
from export.sharing import assert_shared_once
from runtime.build import make_engine
from runtime.engines import trt
from runtime.engines.engine_file import EngineIdentity
from runtime.files import sha256_of
from runtime.measuring.compare import time_alternating
from targets.errors import EnvironmentLacks

EXACT: Tables = [{"use": "fold-norm"}, {"use": "drop-key-bias"}, {"use": "fold-value-bias"}]
ALIGN: Tables = [{"use": "align-layers"}]
INITS = ("first", "stepwise", "mean", "data-aware")
#: Ranks of `cross`.
RANKS = (12, 24, 48)
SCAN = "-scan"
#: What TensorRT is given, with its precision there (no Scan in int8, see `export.scan.Rolled`); and for which GPUs.
IN_ENGINES = {"fp32": "fp32", "fp16": "fp16", "int8-static": "int8", f"fp32{SCAN}": "fp32", f"fp16{SCAN}": "fp16"}
CAPABILITY = "8.6"
#: Calibration images of `files`, which needs the shapes of the models and not their accuracy.
FEW = 32


def tie(**options: Any) -> Tables:
    return [{"use": "tie-layers", **options}]


def heads(rank: int) -> Tables:
    return [{"use": "low-rank-heads", "rank": rank, "value_rank": rank}]


def neurons(keep: int) -> Tables:
    return [{"use": "prune-neurons", "keep": keep}]


def cycle(ffn_delta_rank: int, **options: Any) -> Tables:
    """All layers in one block, from their mean: the start that leaves least to the deltas."""
    return tie(**{"grouping": "cycle", "init": "mean", "delta_rank": 24, "ffn_delta_rank": ffn_delta_rank, **options})


#: What is healed at length, told apart by the drift of the closed forms before any healing.
CANDIDATES: dict[str, Tables] = {
    "cycle-512": [
        *EXACT, *heads(12), *neurons(512), *ALIGN, *cycle(70),
    ],
    "cycle-384": [
        *EXACT, *heads(12), *neurons(384), *ALIGN, *cycle(88),
    ],
    "cycle-512-signals": [
        *EXACT, *heads(12), *neurons(512), *ALIGN,
        *cycle(60, delta_rank=16, signal_rank=16, timestep=True),
    ],
    "cycle-768": [*EXACT, *heads(12), *ALIGN, *cycle(46)],
    "cycle-heads-16": [
        *EXACT, *heads(16), *neurons(512), *ALIGN, *cycle(68),
    ],
    "cycle-10-steps": [
        *EXACT,
        {"use": "drop-blocks", "layers": "auto:2"},
        *heads(12), *neurons(512), *ALIGN, *cycle(84),
    ],
    "middle-512": [
        *EXACT, *heads(12), *neurons(512), *ALIGN,
        {"use": "trim-last-block"},
        *tie(init="mean", delta_rank=24, ffn_delta_rank=58),
    ],
    "untied": [*EXACT, *heads(12), *neurons(296)],
}  # fmt: skip


def rows(structure: Structure) -> Iterator[Row]:
    """The table's rows for a model's number of layers and sizes, the most telling first."""
    count = len(structure.blocks)
    half, third = count // 2, count // 3

    def tied(name: str, before: Tables = ALIGN, **options: Any) -> Row:
        return Row(name, [*EXACT, *before, *tie(**options)])

    ranked: dict[str, Any] = {"delta_rank": 24}
    own: dict[str, dict[str, Any]] = {
        "none": {},
        "timestep": {"timestep": True},
        "signals-24": {"signal_rank": 24},
        "signals-12": {"signal_rank": 12},
        "signals-48": {"signal_rank": 48},
        "deltas-8": {"delta_rank": 8},
        "deltas-16": {"delta_rank": 16},
        "deltas-24": ranked,
        "deltas-48": {"delta_rank": 48},
        "deltas-24-timestep": {**ranked, "timestep": True},
        "deltas-12-signals-12": {"delta_rank": 12, "signal_rank": 12},
        "signals-24-timestep": {"signal_rank": 24, "timestep": True},
    }
    for name, options in own.items():
        yield tied(f"own.{name}", **options)
    # Equal bytes: a third of the block parameters each. Looped ones keep their depth, the others lose it.
    yield Row("bytes.drop-blocks", [*EXACT, {"use": "drop-blocks", "layers": f"auto:{2 * third}"}])
    yield Row("bytes.affine-patch", [*EXACT, {"use": "affine-patch", "layers": f"auto:{2 * third}"}])
    yield tied("bytes.looped", grouping="cycle", delta_rank=31)
    yield Row("bytes.narrow-drop-blocks", [*EXACT, {"use": "drop-blocks", "layers": f"auto:{half}"}, *heads(16)])
    for name in ("untied", "cycle-768", "cycle-512"):
        yield Row(f"bytes.narrow-{name}", CANDIDATES[name])
    # Equal depth: as many steps as blocks are left.
    for dropped in (third, half):
        drop: Tables = [{"use": "drop-blocks", "layers": f"auto:{dropped}"}]
        yield Row(f"depth-{count - dropped}.drop-blocks", [*EXACT, *drop])
        yield Row(
            f"depth-{count - dropped}.affine-patch", [*EXACT, {"use": "affine-patch", "layers": f"auto:{dropped}"}]
        )
        yield tied(f"depth-{count - dropped}.looped", before=[*drop, *ALIGN], grouping="cycle", delta_rank=48)
    yield tied("deltas-24.not-aligned", before=[], **ranked)
    yield tied("none.not-aligned", before=[])
    yield tied("deltas-24.packed", before=[*ALIGN, {"use": "pack-qkv"}], **ranked)
    grouped = groupings(count)
    for init in INITS[:-1]:
        yield tied(f"deltas-24.middle-1.{init}", init=init, **ranked)
    for name, options in grouped.items():
        if name != "middle-1":
            yield tied(f"deltas-24.{name}.data-aware", **options, **ranked)
    for init in INITS:
        for name, options in grouped.items():
            if (init, name) != ("data-aware", "middle-1"):  # that is own.none
                yield tied(f"plain.{name}.{init}", init=init, **options)


def groupings(count: int) -> dict[str, dict[str, Any]]:
    """Ways to tie these layers: one or two blocks, or a third of the layers."""
    third = count // 3
    return {
        "middle-1": {},
        "middle-2": {"blocks": 2},
        "cycle-1": {"grouping": "cycle"},
        f"cycle-{third}": {"grouping": "cycle", "blocks": third},
        f"sequence-{third}": {"grouping": "sequence", "blocks": third},
    }


#: What `cross` crosses with groupings and initializations: what a loop has of its own.
OWN: dict[str, dict[str, Any]] = {
    "none": {},
    "timestep": {"timestep": True},
    **{f"signals-{rank}": {"signal_rank": rank} for rank in RANKS},
    **{f"deltas-{rank}": {"delta_rank": rank} for rank in RANKS},
    "deltas-24-timestep": {"delta_rank": 24, "timestep": True},
}


def crossed(structure: Structure) -> Iterator[Row]:
    """Every grouping with every initialization, way of telling loops apart, and rank."""
    grouped = groupings(len(structure.blocks)).items()
    for (grouping, tying), init, (name, parts) in product(grouped, INITS, OWN.items()):
        yield Row(f"{grouping}.{init}.{name}", [*EXACT, *ALIGN, *tie(init=init, **tying, **parts)])


def crossed_table(args: argparse.Namespace) -> None:
    """Print the rows of `cross`: a line for each grouping and each of `OWN`, a column for each start; before healing
    and, where they were healed, after it."""
    rows = {row["row"]: row for row in json.loads(args.cross.read_text())["rows"]}
    print(f"| | block parameters, M | {' | '.join(INITS)} |")
    print(f"|---{'|--:' * (1 + len(INITS))}|")
    for grouping in dict.fromkeys(name.split(".")[0] for name in rows):
        print(f"| **{grouping}** {'| ' * (1 + len(INITS))}|")
        for own in OWN:
            names = [f"{grouping}.{init}.{own}" for init in INITS]
            if any(name in rows for name in names):
                size = next(rows[name]["block_parameters"] for name in names if name in rows)
                print(f"| {own} | {size / 1e6:.2f} | {' | '.join(_top1(rows.get(name, {})) for name in names)} |")


def _top1(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{100 * row[when]['top1']:.1f}" for when in ("before", "after") if when in row)


def files(args: argparse.Namespace) -> None:
    """Export each row in every form, beside the same graphs untied; weigh files and engines. Rows and
    latencies that the result has already stay as they are."""
    torch.manual_seed(0)
    teacher = vit_lab.original(full_recipe_vit.MODEL)
    images = vit_lab.prepared(vit_lab.test_images(args.data, FEW), teacher, "cpu").images
    calibration = vit_lab.calibration_of(teacher, images, [])
    chosen = {row.name: row.tables for row in rows(teacher.structure)}
    chosen |= full_recipe_vit.CANDIDATES | CANDIDATES | {"original": []}
    args.folder.mkdir(parents=True, exist_ok=True)
    tensorrt = trt.load("tensorrt_rtx") if args.engines else None
    document: dict[str, Any] = {"command": record.command("loops-vit"), **record.surroundings()}
    if tensorrt:
        document["tensorrt"] = f"{tensorrt.label}, compute capability {CAPABILITY}; built, not run"
    earlier = json.loads(args.result.read_text()) if args.result.exists() else {}
    results = earlier.get("rows", [])
    done = {result["row"] for result in results}
    for name, row in {Path(row).name: row for row in ("original", *args.rows)}.items():
        if name in done:
            continue
        model = load(Path(row)) if Path(row).is_dir() else vit_lab.rewritten(teacher, chosen[row], calibration)
        if name != "original":
            model = in_export_form(model, calibration)[0]
        forms = write_forms(model, args.folder, name, images.numpy())
        untied = untied_twins(forms, args.folder, name)
        result: dict[str, Any] = {
            "row": name,
            "parameters": model.num_parameters(),
            "block_parameters": vit_lab.block_parameters(model),
            "macs": vit_lab.macs(model),
            "bytes": {form: path.stat().st_size for form, path in forms.items()},
            "untied_bytes": {form: path.stat().st_size for form, path in untied.items()},
        }
        if tensorrt:
            result["engines"] = engine_bytes(tensorrt, forms)
            result["untied_engines"] = engine_bytes(tensorrt, untied)
        for path in untied.values():
            path.unlink()
        results.append(result)
        print(result, flush=True)
        record.save(args.result, {**earlier, **document, "rows": results})


def time_files(args: argparse.Namespace) -> None:
    """Time files that `files` wrote, named ROW.FORM, in alternating processes; into its result."""
    paths = {name: args.folder / f"{name}.onnx" for name in args.files}
    timed = time_alternating(paths, rounds=args.rounds, seconds=args.seconds, threads=args.threads)
    document = json.loads(args.result.read_text())
    latency = {"command": record.command("loops-vit"), **record.surroundings(), **timed}
    record.save(args.result, {**document, "latency": latency})
    for name, ms in timed["median_ms"].items():
        print(f"{name:40} {ms:7.3f} ms, {timed['speedup'][name]:.2f} times as fast as {args.files[0]}")


#: What is compared at equal bytes and at equal latency: group, then row of the sweep, row of `files`, what it is.
COMPARED = {
    "equal bytes: a third of the block parameters": [
        ("bytes.drop-blocks", "bytes.drop-blocks", "four blocks left"),
        ("bytes.affine-patch", "bytes.affine-patch", "affine patch for eight blocks"),
        ("bytes.narrow-drop-blocks", "bytes.narrow-drop-blocks", "six blocks left, heads of 16"),
        ("bytes.narrow-untied", "untied", "all layers, narrow, untied"),
        ("bytes.looped", "bytes.looped", "one block looped, deltas of rank 31"),
        ("bytes.narrow-cycle-768", "cycle-768", "one block looped, heads of 12, deltas of 24 and 46"),
        ("bytes.narrow-cycle-512", "cycle-512", "`cycle-512`: also 512 hidden units, deltas of 24 and 70"),
    ],
    "equal depth: eight steps": [
        ("depth-8.drop-blocks", "depth-8.drop-blocks", "eight blocks left"),
        ("depth-8.affine-patch", "depth-8.affine-patch", "affine patch for four blocks"),
        ("depth-8.looped", "depth-8.looped", "one block looped, deltas of rank 48"),
    ],
    "equal depth: six steps": [
        ("depth-6.drop-blocks", "depth-6.drop-blocks", "six blocks left"),
        ("depth-6.affine-patch", "depth-6.affine-patch", "affine patch for six blocks"),
        ("depth-6.looped", "depth-6.looped", "one block looped, deltas of rank 48"),
    ],
}
#: What was healed at length at equal bytes: NAME of its NAME-test.json, row of `files`, what it is.
AT_LENGTH = [
    ("vit-cifar10-seven-blocks", "seven-blocks", "seven blocks left, heads of 16"),
    ("vit-cifar10-narrow", "vit-cifar10-narrow", "all layers, narrow, untied"),
    ("vit-cifar10-loops-cycle-512", "cycle512-long", "`cycle-512`"),
]
FORM = "int8-dynamic"


def table(args: argparse.Namespace) -> None:
    """Print the table of `COMPARED` and `AT_LENGTH`: scores, bytes and latency of the dynamic int8 files, and bytes of
    the fp16 engine, of a Scan where that builds."""
    sweep, weighed = (json.loads(path.read_text()) for path in (args.sweep, args.result))
    scores = {row["row"]: row for row in sweep["rows"]}
    sizes = {row["row"]: row for row in weighed["rows"]}
    timed = weighed.get("latency", {}).get("median_ms", {})

    def line(what: str, file: str, *top1: float | None) -> None:
        row, name = sizes[file], f"{file}.{FORM}"
        cells = [f"{row['block_parameters'] / 1e6:.2f}", f"{row['bytes'][FORM] / 1e6:.2f}", f"{row['macs'] / 1e6:.0f}"]
        engines = [row["engines"].get(form, {}).get("bytes") for form in (f"fp16{SCAN}", "fp16")]
        cells += [f"{next(size for size in engines if size) / 1e6:.2f}"]
        cells += [f"{timed[name]:.2f}" if name in timed else ""]
        cells += ["" if score is None else f"{100 * score:.1f}" for score in top1]
        print(f"| {what} | {' | '.join(cells)} |")

    columns = [
        "block parameters, M",
        "int8 file, MB",
        "multiply-adds, M",
        "fp16 engine, MB",
        "ms",
        "top-1 before",
        "healed",
    ]
    print(f"| | {' | '.join(columns)} |")
    print(f"|---{'|--:' * len(columns)}|")
    line("the original", "original", sweep["original"]["top1"], None)
    for group, compared in COMPARED.items():
        print(f"| **{group}** {'| ' * len(columns)}|")
        for name, file, what in compared:
            line(what, file, scores[name]["before"]["top1"], scores[name]["after"]["top1"])
    print(f"| **equal bytes, healed at length** {'| ' * len(columns)}|")
    for name, file, what in AT_LENGTH:
        tested = json.loads((args.result.parent / f"{name}-test.json").read_text())
        line(what, file, None, tested["test"]["top1"])


def write_forms(model: Transformer, folder: Path, name: str, images: np.ndarray) -> dict[str, Path]:
    """The model's files by form, those of a looped one as a Scan too; each is held to storing a shared weight once."""
    paths = {form: folder / f"{name}.{form}.onnx" for form in ("fp32", "fused", "fp16", "int8-static", "int8-dynamic")}
    example = {"pixel_values": torch.zeros(2, *images.shape[1:])}
    export_onnx(model, example, ["logits"], {"pixel_values": {0: "batch"}}, paths["fp32"])
    optimize_for_cpu(paths["fp32"], paths["fused"])
    to_fp16(paths["fp32"], paths["fp16"])
    to_int8_static(paths["fp32"], paths["int8-static"], iter([{"pixel_values": images}]))
    to_int8_dynamic(paths["fused"], paths["int8-dynamic"])
    if any(spec.loops > 1 for spec in model.structure.blocks):
        for form, path in list(paths.items()):
            paths[form + SCAN] = folder / f"{name}.{form}{SCAN}.onnx"
            roll_loops(path, paths[form + SCAN])
    for path in paths.values():
        assert_shared_once(path)
    return paths


def untied_twins(forms: dict[str, Path], folder: Path, name: str) -> dict[str, Path]:
    """The same graphs with a copy of a shared weight for each use; none where nothing is shared."""
    twins = {form: folder / f"{name}.{form}.untied.onnx" for form in IN_ENGINES if not form.endswith(SCAN)}
    return {form: twin for form, twin in twins.items() if untie(forms[form], twin)}


def engine_bytes(tensorrt: trt.TensorRT, forms: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Bytes of the engine of each form that TensorRT is given, for one image, and of the weights in it; or why it built
    none."""
    sizes: dict[str, dict[str, Any]] = {}
    for form, path in forms.items():
        if form not in IN_ENGINES:
            continue
        identity = EngineIdentity(
            onnx={path.name: sha256_of(path)},
            flavour=tensorrt.flavour,
            version=tensorrt.version,
            compute_capabilities=(CAPABILITY,),
            precision=IN_ENGINES[form],
            spans={"batch": (1, 1, 1)},
        )
        try:
            engine, _ = make_engine(tensorrt, path.parent, identity, path.parent)
        except EnvironmentLacks as error:
            sizes[form] = {"refused": str(error).replace(f"{path.parent}/", "")}
            continue
        sizes[form] = {"bytes": engine.record.bytes, "weights": engine.record.weights_bytes}
    return sizes


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    rewrites_vit.add_verbs(verbs, {"run": rows, "cross": crossed}, "loops-vit")
    full_recipe_vit.add_verbs(verbs, CANDIDATES, "loops-vit")
    filing = verbs.add_parser("files")
    filing.set_defaults(run=files)
    filing.add_argument("result", type=Path)
    filing.add_argument("folder", type=Path, help="where the files go")
    filing.add_argument("rows", nargs="*", default=["bytes.looped", "bytes.drop-blocks", "cycle-512", "untied"])
    filing.add_argument("--data", default="zoo:cifar10-test")
    filing.add_argument("--engines", action="store_true", help="TensorRT for RTX builds each form, needs no GPU")
    timing = verbs.add_parser("time")
    timing.set_defaults(run=time_files)
    timing.add_argument("result", type=Path)
    timing.add_argument("folder", type=Path)
    timing.add_argument("files", nargs="+", help="ROW.FORM, the first is what the others are compared with")
    timing.add_argument("--threads", type=int, help="of every file (default: each file's fastest number)")
    timing.add_argument("--rounds", type=int, default=7)
    timing.add_argument("--seconds", type=float, default=1.0, help="of each file in each round")
    tabling = verbs.add_parser("table")
    tabling.set_defaults(run=table)
    tabling.add_argument("sweep", type=Path)
    tabling.add_argument("result", type=Path)
    crossing = verbs.add_parser("crossed")
    crossing.set_defaults(run=crossed_table)
    crossing.add_argument("cross", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run the verb."""
    args = arguments()
    args.run(args)


if __name__ == "__main__":
    main()
