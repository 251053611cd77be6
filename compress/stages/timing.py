"""timing: latency of the original and of what ships, each in a process of its own, in alternating rounds."""

from __future__ import annotations

import json

from compress.pipeline import StageContext
from compress.stages.artifacts import OnnxModel, ShippedModels, SourceModel
from runtime.files import write_atomic

#: Rounds and seconds per model and round. Medians of per-round ratios are reported, so rounds matter more.
ROUNDS, SECONDS = 5, 1.0
ORIGINAL = "original fp32"
#: Tokens behind which a decoder is timed too, and for how long each.
CONTEXTS, DECODE_SECONDS = (128, 1024, 4096), 0.3


def time_models(
    context: StageContext,
    source: SourceModel,
    original: OnnxModel,
    original_int8: ShippedModels,
    shipped: ShippedModels,
) -> None:
    """Options: `threads`, `machine` (so that another machine measures anew)."""
    from runtime.compare import decode_alternating, time_alternating

    files = {ORIGINAL: original.file}
    files |= {f"original {entry['note']}": original_int8.path / entry["path"] for entry in original_int8.entries()}
    files |= {entry["path"]: shipped.path / entry["path"] for entry in shipped.every()}
    context.progress(0, 1, f"{len(files)} models, {ROUNDS} rounds of {SECONDS:g} s each")
    threads, structure = context.options["threads"], source.structure()
    length = source.task.timing_length(structure)
    result = time_alternating(files, rounds=ROUNDS, seconds=SECONDS, threads=threads, length=length)
    result["machine"] = context.options["machine"]
    if source.task.states(structure):
        context.progress(0, 1, f"decoding behind {', '.join(map(str, CONTEXTS))} tokens")
        decoders = (ORIGINAL, *(entry["path"] for entry in shipped.entries()))
        compared = {name: files[name] for name in decoders}
        result["decode"] = decode_alternating(compared, CONTEXTS, 1, DECODE_SECONDS, threads)
    write_atomic(context.folder / "timing.json", (json.dumps(result, indent=1) + "\n").encode())
    for name, speedup in result["speedup"].items():
        context.log(f"{name}: {result['median_ms'][name]:.2f} ms, {speedup:.2f} times as fast as the original")
    context.progress(1, 1)
