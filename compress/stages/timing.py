"""timing: latency of the original and of what ships, each in a process of its own, in alternating rounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import OnnxModel, ShippedModels, SourceModel, Timing
from runtime.files import write_atomic

if TYPE_CHECKING:
    from compress.model import Structure
    from compress.stages.job import Job

#: Rounds and seconds per model and round. Medians of per-round ratios are reported, so rounds matter more.
ROUNDS, SECONDS = 5, 0.4
ORIGINAL = "original fp32"
#: Tokens behind which a decoder is timed too, and for how long each.
CONTEXTS, DECODE_SECONDS = (128, 1024, 4096), 0.3


class Options(Spec):
    """What the times depend on, so that another machine measures anew."""

    cpus: int
    machine: str


def stage(job: Job) -> Stage:
    return Stage(
        name="timing",
        does="times original and shipped files here, alternating, each with its fastest number of threads",
        why="ratios from one run, each model in a process of its own",
        inputs={
            "source": "source",
            "original": "baseline-export",
            "original_int8": "baseline-int8",
            "shipped": "precision",
        },
        produces=Timing,
        run=time_models,
        options=Options(cpus=job.timed_on.cpus, machine=job.timed_on.name),
        libraries=("onnxruntime",),
    )


def time_models(
    context: StageContext[Options],
    source: SourceModel,
    original: OnnxModel,
    original_int8: ShippedModels,
    shipped: ShippedModels,
) -> None:
    """Every file runs with the number of threads
    that is fastest for it: none is helped or held back by a number that suits another."""
    from compress.verification.report import threads_text
    from runtime.measuring.compare import decode_alternating, time_alternating

    files = {ORIGINAL: original.file}
    files |= {f"original {file.note}": original_int8.path / file.path for file in original_int8.entries()}
    files |= {file.path: shipped.path / file.path for file in shipped.every()}
    context.progress(0, 1, f"{len(files)} models, {ROUNDS} rounds of {SECONDS:g} s each")
    structure = source.structure()
    length = source.task.timing_length(structure)
    result = time_alternating(files, rounds=ROUNDS, seconds=SECONDS, length=length)
    result["machine"] = context.options.machine
    if source.task.keeps_state:
        contexts = contexts_of(structure)
        context.progress(0, 1, f"decoding behind {', '.join(map(str, contexts))} tokens")
        decoders = (ORIGINAL, *(file.path for file in shipped.entries()))
        compared = {name: files[name] for name in decoders}
        result["decode"] = decode_alternating(compared, contexts, 1, DECODE_SECONDS)
    write_atomic(context.folder / "timing.json", (json.dumps(result, indent=1) + "\n").encode())
    for name, speedup in result["speedup"].items():
        took = f"{result['median_ms'][name]:.2f} ms with {threads_text(result['threads'][name])}"
        context.log(f"{name}: {took}, {speedup:.2f} times as fast as the original")
    context.progress(1, 1)


def contexts_of(structure: Structure) -> list[int]:
    """Those of CONTEXTS that leave a place for another token, or the longest that does: a table of positions ends."""
    from compress.model.embeds.token import TokenEmbedSpec

    places = structure.embed.max_positions if isinstance(structure.embed, TokenEmbedSpec) else 0
    return [size for size in CONTEXTS if size < (places or size + 1)] or [max(1, places - 1)]
