"""The graph of a run: which stages a recipe, a target and the user's data make, and how they hang together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from compress import tasks, zoo
from compress.pipeline import Graph, Stage
from compress.pipeline.tree import digest_tree
from compress.recipe import Recipe
from compress.stages import (
    answers,
    bundle,
    calibrate,
    data,
    engine,
    export,
    heal,
    localize,
    precision,
    report,
    rewrite,
    source,
    timing,
    verify,
)
from compress.stages.artifacts import (
    Answers,
    BundleArtifact,
    CalibrationSet,
    Comparison,
    Engines,
    Localization,
    MatchedData,
    ModelArtifact,
    OnnxModel,
    ReportArtifact,
    ShippedModels,
    SourceModel,
    Timing,
)
from compress.stages.precision import FileChoice, choose_files
from compress.tasks.task import DataChoice, Part
from runtime import backends
from runtime.measuring.power import cpu_name
from targets.errors import InputError
from targets.machine import usable_cpus
from targets.spec import Target
from targets.table import FOLDER as TARGETS

_EXPORT_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
#: Highest opset that is ever asked for: what every listed device reads, and where Gelu is one node.
_OPSET = 20


@dataclass(frozen=True)
class Job:
    """What the user asked for. `recipe_name` is for the report."""

    recipe: Recipe
    recipe_name: str
    target: Target
    seed: int
    memo: Path

    @property
    def model_folder(self) -> Path:
        return zoo.locate(self.recipe.model.source)

    @property
    def data_source(self) -> str:
        """The data spec. Raises InputError if none was given and the model brings none."""
        given = self.recipe.data.source or zoo.data_of(self.recipe.model.source)
        if given is None:
            raise InputError(f"the model {self.recipe.model.source} brings no data of its own; give some with --data")
        return given

    @property
    def mode(self) -> str:
        """The precision that ships. Raises InputError if the target has no such precision."""
        mode = self.recipe.precision.mode or self.target.default_precision
        if mode not in self.target.precisions:
            raise InputError(f"target {self.target.name} has no {mode}; it takes {', '.join(self.target.precisions)}")
        return mode

    @property
    def engine_precisions(self) -> tuple[str, ...]:
        """Precisions of the files for TensorRT: the one that ships, then the others that the target's engines have.
        Where the target has no engine in that one (fp32), nothing is added."""
        every = self.target.engine.precisions if self.target.engine else ()
        return (self.mode, *(one for one in every if one != self.mode and self.mode in every))

    @property
    def files(self) -> list[FileChoice]:
        """The files that ship, one per form that the target's backends want, in their order; as many for engines as
        there are precisions of engines. Raises InputError for a backend that there is not."""
        forms = dict.fromkeys(backends.get(name).form for name in self.target.backends)
        return choose_files(list(forms), self.mode, self.engine_precisions)


def build_graph(job: Job) -> Graph:
    """All stages of a run, in the order in which they are shown. Raises InputError for what can be seen to be wrong
    before anything runs: a missing model, data that cannot be opened, a rewrite that does not exist."""
    builder = GraphBuilder(job)
    return Graph(builder.stages())


def _check_model(folder: Path) -> None:
    from compress.families import check_known

    if not (folder / "structure.json").is_file():
        check_known(folder)


class GraphBuilder:
    """The stages of one job. `changes` is the part that a recipe decides."""

    def __init__(self, job: Job) -> None:
        self.job = job
        recipe = job.recipe
        _check_model(job.model_folder)
        choice: dict[str, Any] = {
            "source": job.data_source,
            "limit": recipe.data.limit,
            "skip_corrupt": recipe.data.skip_corrupt,
            "seed": job.seed,
        }
        self.data = {"data": choice}
        self.task = tasks.of_folder(job.model_folder)
        self._check_loops()
        self.model_digest = {"model": digest_tree(job.model_folder, job.memo)}
        digests = {part: self._digest(DataChoice(**choice), part) for part in get_args(Part)}
        self.evaluation_digest = {"evaluation": digests["evaluation"]}
        self.healing_digest = {"healing": digests["healing"]}
        self.opset = {"opset": min(_OPSET, min(row.max_opset for row in job.target.software))}

    def _digest(self, choice: DataChoice, part: Part) -> str:
        try:
            return self.task.digest(choice, part, self.job.memo)
        except InputError as error:
            raise InputError(f"{error} (the model is for {self.task.name})") from error

    def _check_loops(self) -> None:
        loops, task = self.job.recipe.loops, self.task.name
        if loops.offer and task == "causal-lm":
            raise InputError("loops.offer is refused for causal-lm: each loop keeps a state, so inputs would differ")
        if loops.exit is not None and not task.endswith("classification"):
            raise InputError(f"loops.exit needs a classifier, whose answers have probabilities; this is {task}")

    def stages(self) -> list[Stage]:
        changes = self.changes()
        model = changes[-1].name if changes else "source"
        built = self._engine()
        engines = {"engines": built[0].name} if built else {}
        # A rewrite that the model refuses is told before the original is exported and asked, and labels that it knows
        # nothing of before healing.
        return [
            self._source(),
            self._data(),
            self._calibrate(),
            *changes[:-1],
            *self._baseline(),
            *changes[-1:],
            *self._files(model),
            *built,
            *self._judging(model, [stage.name for stage in changes]),
            *self._delivering(model, engines),
        ]

    def _source(self) -> Stage:
        return Stage(
            name="source",
            does=f"reads {self.job.recipe.model.source} into the canonical transformer",
            why="every rewrite works on one form, whatever family the checkpoint is of",
            inputs={},
            produces=SourceModel,
            run=source.read_source,
            options={"path": str(self.job.model_folder), "task": self.task.name},
            sources=self.model_digest,
            libraries=("torch", "safetensors"),
        )

    def _data(self) -> Stage:
        return Stage(
            name="data",
            does="holds the samples to the model and the gate",
            why="classes that are not the model's, or too few samples, are told now and not after the work",
            inputs={"original": "source"},
            produces=MatchedData,
            run=data.match_data,
            options={**self.data, "min_samples": self.job.recipe.gate.min_samples},
            sources={**self.evaluation_digest, **self.healing_digest},
            libraries=self.task.libraries,
        )

    def _baseline(self) -> list[Stage]:
        return [
            Stage(
                name="baseline-export",
                does="exports the original, unchanged, to ONNX",
                why="size, speed and accuracy are compared with what you have today",
                inputs={"original": "source"},
                produces=OnnxModel,
                run=export.export_plain,
                options=self.opset,
                libraries=_EXPORT_LIBRARIES,
            ),
            Stage(
                name="baseline",
                does="asks the original about every evaluation sample",
                why="drift is measured sample by sample against these answers",
                inputs={"original": "source", "model": "baseline-export"},
                produces=Answers,
                run=answers.answer_original,
                options={**self.data, "confidence": self.job.recipe.gate.confidence},
                sources=self.evaluation_digest,
                libraries=("onnxruntime", *self.task.libraries),
            ),
            Stage(
                name="baseline-int8",
                does="quantizes the original to int8, dynamic and static",
                why="the rewritten model has to beat what quantization alone gives",
                inputs={"original": "source", "calibration": "calibrate", "model": "baseline-export"},
                produces=ShippedModels,
                run=precision.quantize_original,
                options=self.data,
                sources=self.healing_digest,
                libraries=("onnx", "onnxruntime", *self.task.libraries),
            ),
        ]

    def _calibrate(self) -> Stage:
        table = self.job.recipe.calibrate
        return Stage(
            name="calibrate",
            does=f"chooses {table.samples} samples for fits and {table.held_out} to watch drift",
            why="closed-form rewrites and the quantizer are fitted on your data, never on evaluation samples",
            inputs={"original": "source"},
            produces=CalibrationSet,
            run=calibrate.calibrate,
            options={**self.data, "samples": table.samples, "held_out": table.held_out},
            sources=self.healing_digest,
            libraries=self.task.libraries,
        )

    def changes(self) -> list[Stage]:
        """A stage per rewrite, and healing after them. A model that nothing was done to needs none, unless it is to
        learn other numbers of loops."""
        from compress.rewrites import options_in, parse_options

        stages: list[Stage] = []
        before = "source"
        for index, table in enumerate(self.job.recipe.rewrite, start=1):
            method, _ = parse_options(table)
            settings = ", ".join(f"{key} {value}" for key, value in options_in(table).items())
            stages.append(
                Stage(
                    name=f"rewrite-{index}-{method.name}",
                    does=f"{method.name}{f' ({settings})' if settings else ''}: {method.summary}",
                    why="exact, which is asserted" if method.exact else "smaller or faster; healing wins accuracy back",
                    inputs={"original": "source", "calibration": "calibrate", "model": before},
                    produces=ModelArtifact,
                    run=rewrite.apply_rewrite,
                    options={**self.data, "rewrite": table},
                    sources=self.healing_digest,
                    libraries=("torch", *self.task.libraries),
                )
            )
            before = stages[-1].name
        return [*stages, self._heal(before)] if stages or self.job.recipe.heal.loops else []

    def _heal(self, before: str) -> Stage:
        options = self.job.recipe.heal
        length = options.attention_steps + options.transfer_steps + options.steps
        return Stage(
            name="heal",
            does=f"distils the original into the rewritten model, {length} steps of {options.batch_size} samples",
            why="the rewrites were fitted layer by layer; training end to end wins back what they lost together",
            inputs={"original": "source", "calibration": "calibrate", "model": before},
            produces=ModelArtifact,
            run=heal.run_heal,
            options={**self.data, "heal": options.model_dump(mode="json")},
            sources=self.healing_digest,
            libraries=("torch", "accelerate", *self.task.libraries),
        )

    def _engine(self) -> list[Stage]:
        """The engine stage, for targets whose engines are built here. Raises EnvironmentLacks without TensorRT."""
        from runtime.engines import trt

        target = self.job.target
        if target.engine is None:
            return []
        capabilities = list(target.engine.capabilities)
        return [
            Stage(
                name="engine",
                does=f"builds TensorRT engines in {' and '.join(self.job.engine_precisions)} for compute capability "
                f"{' and '.join(capabilities)}",
                why="the device need not build them; it only checks them",
                inputs={"original": "source", "models": "precision"},
                produces=Engines,
                run=engine.build_engines,
                options={"target": target.name, "tensorrt": trt.load("tensorrt_rtx").version},
                sources={"target": digest_tree(TARGETS / f"{target.name}.toml", self.job.memo)},
                libraries=("onnx",),
            )
        ]

    def _files(self, model: str) -> list[Stage]:
        """The model as files, in every form that ships."""
        job = self.job
        return [
            Stage(
                name="export",
                does=f"exports the model to ONNX, opset {self.opset['opset']}, and compares it with torch",
                why="the device runs a graph; its numbers must be the model's",
                inputs={"original": "source", "calibration": "calibrate", "model": model},
                produces=OnnxModel,
                run=export.export_model,
                options={**self.opset, **self.data, "loops": sorted(set(job.recipe.loops.offer))},
                sources=self.healing_digest,
                libraries=_EXPORT_LIBRARIES,
            ),
            Stage(
                name="precision",
                does=f"writes the files that ship, in {job.mode}",
                why="fewer bytes and faster products" if job.mode != "fp32" else "fp32 was asked for",
                inputs={"original": "source", "calibration": "calibrate", "model": "export"},
                produces=ShippedModels,
                run=precision.write_shipped,
                options={
                    **self.data,
                    "mode": job.mode,
                    "files": [asdict(one) for one in job.files],
                    "precision": job.recipe.precision.model_dump(mode="json", exclude={"mode"}),
                },
                sources=self.healing_digest,
                libraries=("onnx", "onnxruntime", *self.task.libraries),
            ),
        ]

    def _judging(self, model: str, changes: list[str]) -> list[Stage]:
        """What the files answer, whether that passes, where drift comes from and how long an answer takes."""
        job, gate = self.job, self.job.recipe.gate
        return [
            Stage(
                name="predict",
                does="asks every file that ships about every evaluation sample",
                why="what is gated is what ships, bit for bit",
                inputs={"original": "source", "models": "precision"},
                produces=Answers,
                run=answers.answer_shipped,
                options=self.data,
                sources=self.evaluation_digest,
                libraries=("onnxruntime", *self.task.libraries),
            ),
            Stage(
                name="predict-int8",
                does="asks the original's dynamic int8 about every evaluation sample",
                why="so that the comparison shows what quantization alone costs",
                inputs={"original": "source", "models": "baseline-int8"},
                produces=Answers,
                run=answers.answer_dynamic,
                options=self.data,
                sources=self.evaluation_digest,
                libraries=("onnxruntime", *self.task.libraries),
            ),
            Stage(
                name="verify",
                does=f"gate: at most {gate.max_drop:g} {self.task.limit}, at {100 * gate.confidence:g} % confidence",
                why="fails closed: too few samples, NaN or an error never pass",
                inputs={
                    "original": "source",
                    "reference": "baseline",
                    "candidates": "predict",
                    "models": "precision",
                },
                produces=Comparison,
                run=verify.verify,
                options={
                    **self.data,
                    "gate": gate.model_dump(mode="json"),
                    "metric": self.task.metric,
                    "bound": self.task.bound,
                    "exit": job.recipe.loops.exit,
                },
                sources=self.evaluation_digest,
                libraries=("numpy", "scipy", "pydantic", *self.task.libraries),
            ),
            Stage(
                name="localize",
                does="measures every step from the original to what ships, and every block of the model",
                why="if accuracy is lost, you see by which step and in which block",
                inputs={
                    "original": "source",
                    "reference": "baseline",
                    "exported": "export",
                    "models": "precision",
                    "candidates": "predict",
                    "model": model,
                    **{f"change_{index}": name for index, name in enumerate(changes)},
                },
                produces=Localization,
                run=localize.localize,
                options={
                    **self.data,
                    "changes": changes,
                    "metric": self.task.metric,
                    "bound": self.task.bound,
                    "limit": gate.max_drop,
                },
                sources=self.evaluation_digest,
                libraries=("torch", "onnxruntime", *self.task.libraries),
            ),
            Stage(
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
                run=timing.time_models,
                options={"cpus": usable_cpus(), "machine": cpu_name()},
                libraries=("onnxruntime",),
            ),
        ]

    def _delivering(self, model: str, engines: dict[str, str]) -> list[Stage]:
        """What the device and people get."""
        job = self.job
        labels = {"target": job.target.name, "recipe": job.recipe_name, "model": job.recipe.model.source}
        return [
            Stage(
                name="bundle",
                does="puts everything that the device needs into one folder, with hashes and golden samples",
                why="the device runs it with numpy and onnxruntime alone, and notices a damaged file",
                inputs={
                    "original": "source",
                    "original_onnx": "baseline-export",
                    "models": "precision",
                    "comparison": "verify",
                    "model": model,
                    **engines,
                    "localization": "localize",
                    "calibration": "calibrate",
                },
                produces=BundleArtifact,
                run=bundle.write,
                options={**self.data, **labels, "mode": job.mode, "exit": job.recipe.loops.exit},
                sources=self.evaluation_digest,
                libraries=("numpy", "onnxruntime", "edgepress"),
            ),
            Stage(
                name="report",
                does="writes report.html, report.md, report.json and junit.xml",
                why="people read the page, CI reads the rest",
                inputs={
                    "original": "source",
                    "original_onnx": "baseline-export",
                    "original_int8": "baseline-int8",
                    "answers_int8": "predict-int8",
                    "models": "precision",
                    "comparison": "verify",
                    "timing": "timing",
                    "model": model,
                    **engines,
                    "localization": "localize",
                },
                produces=ReportArtifact,
                run=report.write,
                options={**self.data, **labels},
                sources=self.evaluation_digest,
                libraries=("edgepress",),
            ),
        ]
