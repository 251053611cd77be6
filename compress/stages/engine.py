"""engine: TensorRT engines of the files that ship, for targets whose engines need no device to be built."""

from __future__ import annotations

import json
import time

import targets
from compress.pipeline import StageContext
from compress.stages.artifacts import ShippedModels, SourceModel
from runtime.files import sha256_of, write_atomic


def build_engines(context: StageContext, original: SourceModel, models: ShippedModels) -> None:
    """One engine per file for TensorRT. Options: `target`, `tensorrt` (the version, so that another one builds anew).

    Seconds go into engines.json beside the engines, not into what travels.
    """
    from export.onnx_model import read_info
    from runtime.build import make_engine
    from runtime.engines import trt
    from runtime.engines.engine_file import FOLDER, EngineIdentity, spans_of

    tensorrt = trt.load("tensorrt_rtx")
    target = targets.load(context.options["target"])
    assert target.engine is not None
    profile = {name: (low, best, high) for name, (low, best, high) in target.profile.spans(original.longest).items()}
    entries = [entry for entry in models.entries() if entry["runtime"] == "tensorrt"]
    rows = []
    for index, entry in enumerate(entries):
        path: str = entry["path"]
        recurrent = any(tensor.name.startswith("past_") for tensor in read_info(models.path / path).inputs)
        identity = EngineIdentity(
            onnx={path: sha256_of(models.path / path)},
            flavour=tensorrt.flavour,
            version=tensorrt.version,
            compute_capabilities=target.engine.capabilities,
            precision=entry["precision"],
            spans=spans_of(profile, recurrent=recurrent),
        )

        def tell(fraction: float, phase: str, done: int = index, path: str = path) -> None:
            context.progress(done + fraction, len(entries), f"{path}: {phase}")

        began = time.perf_counter()
        engine, _ = make_engine(tensorrt, models.path, identity, context.folder / FOLDER, tell=tell, say=context.log)
        seconds = time.perf_counter() - began
        rows.append({"model": path, "engine": engine.path.name, "seconds": round(seconds, 2)})
    write_atomic(context.folder / "engines.json", (json.dumps(rows, indent=1) + "\n").encode())
