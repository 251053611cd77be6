"""How long a translator takes for a token, against the tokens that it wrote before: caches beside a state of one size.

Usage, from the root of the repository, on a quiet machine:
    python -m benchmarks translation-lengths benchmarks/results/translation-lengths.json

The decoder of zoo:m30k-de-en gets `--places` places for tokens (they are waves, which go on). It is exported in fp32 as
it is, and with linear attention to its own tokens and to the source, unhealed: weights do not change the speed. Both
write for sources of 20 tokens, for one and for `--batch` sources at once, on one thread. A number is the median of 32
steps behind that many tokens, in milliseconds; the two forms take turns over `--rounds` rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lab import record
from benchmarks.train.m30k_forms import CROSS, MODEL, T2R
from compress import tasks, zoo
from compress.model import Transformer
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.tasks.text_to_text import TASK
from export.onnx_model import export_onnx
from runtime import ort, states
from runtime.bundles.manifest import DECODER, ENCODER
from runtime.measuring.power import cpu_name
from runtime.ort import OrtModel
from runtime.states import SOURCE_MASK
from runtime.texts.text import INPUTS, TARGET

FORMS: dict[str, list[dict[str, Any]]] = {"caches": [], "constant state": [T2R, CROSS]}
LENGTHS, STEPS, SOURCE_TOKENS = (32, 128, 512, 1024), 32, 20


def longer(places: int) -> Transformer:
    """The model with more places for the tokens that it writes."""
    folder = zoo.locate(MODEL)
    model = read_checkpoint(folder, tasks.of_folder(folder).preprocessing(folder, print))
    structure = model.structure
    embed = structure.embed.replace(max_positions=places)
    long = Transformer(structure.replace(embed=embed, preprocessing={**structure.preprocessing, "max_length": places}))
    long.load_state_dict(model.state_dict())
    return long.eval()


def exported(form: str, original: Transformer, folder: Path) -> dict[str, OrtModel]:
    """The encoder and the decoder of a form, on one thread."""
    generator, model = torch.Generator().manual_seed(0), original
    ids_BN = torch.randint(3, 4000, (4, SOURCE_TOKENS), generator=generator)
    inputs = {INPUTS[0]: ids_BN, INPUTS[1]: torch.ones_like(ids_BN), TARGET: ids_BN}
    for table in FORMS[form]:
        calibration = Calibration(original, lambda: iter([inputs]), lambda note: None)
        model = run_rewrite(*parse_options(table), model, calibration, table["stack"])
    graph, path = TASK.graph_inputs(model.structure, 0), folder / "model.onnx"
    folder.mkdir()
    export_onnx(TASK.module(model), graph.example, TASK.graph_outputs(model.structure), graph.dynamic, path)
    files = TASK.graphs(path)
    return {name: ort.load(files[name], threads=1) for name in (ENCODER, DECODER)}


def step_times(parts: dict[str, OrtModel], batch: int) -> dict[int, float]:
    """Median milliseconds of the steps behind each number of tokens."""
    random = np.random.default_rng(0)
    source = {
        INPUTS[0]: random.integers(3, 4000, (batch, SOURCE_TOKENS)),
        INPUTS[1]: np.ones((batch, SOURCE_TOKENS), int),
    }
    fixed = {SOURCE_MASK: source[INPUTS[1]], **parts[ENCODER].run(source)}
    decoder = parts[DECODER]
    kinds = states.states_of(decoder.inputs)
    past, taken = states.fresh(kinds, {states.BATCH: batch}), []
    token_B1 = np.full((batch, 1), 5)
    read = {tensor.name for tensor in decoder.inputs}
    kept = {name: array for name, array in fixed.items() if name in read}
    for _ in range(max(LENGTHS) + STEPS):
        began = time.perf_counter()
        found = decoder.run({**kept, **past, INPUTS[0]: token_B1})
        taken.append(1000 * (time.perf_counter() - began))
        past = {one.past: found[one.present] for one in kinds}
    return {length: float(np.median(taken[length : length + STEPS])) for length in LENGTHS}


def measure(args: argparse.Namespace) -> None:
    """Export both forms, measure in turns, write the JSON."""
    original = longer(args.places)
    with tempfile.TemporaryDirectory() as work:
        parts = {form: exported(form, original, Path(work, str(at))) for at, form in enumerate(FORMS)}
        rows = []
        for batch in (1, args.batch):
            runs: dict[str, list[dict[int, float]]] = {form: [] for form in FORMS}
            for _ in range(args.rounds):
                for form, both in parts.items():
                    runs[form].append(step_times(both, batch))
            for form, found in runs.items():
                times = {str(length): round(float(np.median([one[length] for one in found])), 4) for length in LENGTHS}
                rows.append({"form": form, "batch": batch, "milliseconds": times})
                print(rows[-1], flush=True)
    surroundings = {"command": record.command("translation-lengths"), **record.surroundings(), "device": cpu_name()}
    record.save(
        args.result, {**surroundings, "model": MODEL, "places": args.places, "rounds": args.rounds, "rows": rows}
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--places", type=int, default=1100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
