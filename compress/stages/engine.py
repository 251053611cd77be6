"""engine: TensorRT engines of the files that ship, for targets whose engines need no device to be built."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import targets
from compress.pipeline import Stage, StageContext
from compress.spec import Spec
from compress.stages.artifacts import Engines, ShippedModels, SourceModel
from runtime import states
from runtime.files import sha256_of, write_atomic

if TYPE_CHECKING:
    from compress.stages.job import Job


class Options(Spec):
    """`tensorrt`: its version, so that another one builds anew."""

    target: str
    tensorrt: str


def stages(job: Job) -> list[Stage]:
    """The engine stage, for targets whose engines are built here. Raises EnvironmentLacks without TensorRT."""
    from runtime.engines import trt

    target = job.target
    if target.engine is None:
        return []
    capabilities = list(target.engine.capabilities)
    return [
        Stage(
            name="engine",
            does=f"builds TensorRT engines in {' and '.join(job.engine_precisions)} for compute capability "
            f"{' and '.join(capabilities)}",
            why="the device need not build them; it only checks them",
            inputs={"original": "source", "models": "precision"},
            produces=Engines,
            run=build_engines,
            options=Options(target=target.name, tensorrt=trt.load("tensorrt_rtx").version),
            sources=job.target_file,
            libraries=("onnx",),
        )
    ]


def build_engines(context: StageContext[Options], original: SourceModel, models: ShippedModels) -> None:
    """One engine per file for TensorRT.

    Seconds go into engines.json beside the engines, not into what travels.
    """
    from export.onnx_model import read_info
    from runtime.build import make_engine
    from runtime.engines import trt
    from runtime.engines.engine_file import FOLDER, EngineIdentity, spans_of, stored

    tensorrt = trt.load("tensorrt_rtx")
    target = targets.load(context.options.target)
    assert target.engine is not None
    profile = {name: (low, best, high) for name, (low, best, high) in target.profile.spans(original.longest).items()}
    files = [file for file in models.files() if file.runtime == "tensorrt"]
    rows = []
    for index, file in enumerate(files):
        path = file.path
        recurrent = any(states.is_past(tensor.name) for tensor in read_info(models.path / path).inputs)
        identity = EngineIdentity(
            onnx={
                name: sha256_of(models.path / name)
                for name in stored(path, file.graph)
                if (models.path / name).is_file()
            },
            flavour=tensorrt.flavour,
            version=tensorrt.version,
            compute_capabilities=target.engine.capabilities,
            precision=file.precision,
            spans=spans_of(profile, recurrent=recurrent),
        )

        def tell(fraction: float, phase: str, done: int = index, path: str = path) -> None:
            context.progress(done + fraction, len(files), f"{path}: {phase}")

        began = time.perf_counter()
        engine, _ = make_engine(tensorrt, models.path, identity, context.folder / FOLDER, tell=tell, say=context.log)
        seconds = time.perf_counter() - began
        rows.append({"model": path, "engine": engine.path.name, "seconds": round(seconds, 2)})
    write_atomic(context.folder / "engines.json", (json.dumps(rows, indent=1) + "\n").encode())
