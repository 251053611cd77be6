"""Run a bundle: the first form of its model that this machine can run, held against the manifest at every call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import backends
from runtime.backends import Backend, Loaded, Opening
from runtime.bundles.bundle import Bundle, check_passed, open_files
from runtime.bundles.manifest import FED, ONNXRUNTIME, Manifest, ModelFile
from runtime.bundles.tensors import check_declared, check_finite, check_inputs, check_outputs, fresh_state
from runtime.measuring.fastest import Choice, engine_first, remembered, remembered_choice
from runtime.ort import CPU
from runtime.texts.text import check_ids
from targets.errors import EnvironmentLacks, InputError
from targets.machine import usable_cpus

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Session:
    """An opened bundle. `notes` says, one line each, which forms were preferred and why they could not run."""

    bundle: Bundle
    model: ModelFile
    backend: Loaded
    threads: int
    notes: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def provider(self) -> str:
        """What computes."""
        return self.backend.provider

    @property
    def max_batch(self) -> int:
        """The largest batch that the model takes."""
        return self.manifest.max_batch

    @property
    def longest_chunk(self) -> int | None:
        """How many tokens a call of a model with state takes on every backend; None if the target does not say."""
        span = self.manifest.target.profile.get(FED)
        return span and span[2]

    def describe(self) -> str:
        """'model.onnx (fp32) on CPUExecutionProvider, 2 threads'."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.model.path} ({self.model.precision}) on {self.provider}, {threads}"

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs. States that `inputs` leaves out start as zeros.

        Raises InputError if names, types or shapes differ from the manifest, a text is too long, a chunk longer than
        the profile's, a token not the model's, or a state not finite; GateFailed if an output is not finite.
        """
        tensors = self.manifest.all_inputs
        whole = {**inputs, **fresh_state(self.manifest.state, inputs, tensors)}
        self._check_length(check_inputs(whole, tensors))
        self.check_ids(inputs)
        check_finite(self.manifest.state, inputs)
        return check_outputs(self.backend.run(whole), self.manifest.all_outputs, self.model.path)

    def check_ids(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Raises InputError for a token that the model has not: one below 0 would quietly be another."""
        size = (self.manifest.preprocessing or {}).get("vocab_size")
        if isinstance(size, int) and "input_ids" in inputs:
            check_ids(inputs["input_ids"], size)

    def _check_length(self, sizes: Mapping[str, int]) -> None:
        """Hold texts against the longest that the model takes: what lies beyond has no position, or no pool."""
        limit = (self.manifest.preprocessing or {}).get("max_length")
        if isinstance(limit, int) and sizes.get("length", 0) > limit:
            raise InputError(f"a sequence has {sizes['length']} tokens, {self.model.path} takes {limit}; cut it")
        longest = self.longest_chunk
        if longest is not None and sizes.get(FED, 0) > longest:
            raise InputError(
                f"a chunk has {sizes[FED]} tokens, the profile of {self.manifest.target.name} ends at {longest}; "
                "feed a runtime.stream.Stream, which splits it"
            )


def open_bundle(
    path: Path | str,
    provider: str | None = None,
    strict: bool = False,
    threads: int | None = None,
    allow_failed: bool = False,
) -> Session:
    """Verify a bundle and load the first form of its model that runs here: a TensorRT engine, else ONNX Runtime.

    `provider` ('tensorrt', 'cpu', 'cuda', ...) asks for one; without it the order is the manifest's. What was asked for
    and cannot run leaves a note and falls back to the CPU, unless `strict`. Raises InputError, EnvironmentLacks, and
    GateFailed for a bundle that failed its accuracy gate, unless `allow_failed`.
    """
    bundle = open_files(path)
    if not allow_failed:
        check_passed(bundle)
    return open_session(bundle, provider, strict, threads)


def open_graphs(
    path: Path | str,
    provider: str | None = None,
    strict: bool = False,
    threads: int | None = None,
    allow_failed: bool = False,
) -> dict[str, Session]:
    """A session of each graph of a bundle's model, by its name; `model` where there is one. Raises as `open_bundle`."""
    bundle = open_files(path)
    if not allow_failed:
        check_passed(bundle)
    return {name: open_session(one, provider, strict, threads) for name, one in bundle.graphs.items()}


def open_session(
    bundle: Bundle,
    provider: str | None = None,
    strict: bool = False,
    threads: int | None = None,
    loops: int | None = None,
    batch: int = 1,
) -> Session:
    """`open_bundle` for a bundle of one graph that is verified already; with another number of loops, where it offers
    some. Without `threads` it takes the number that runtime.bench found fastest here for batches of size `batch`, else
    the target's.
    """
    bundle, notes = bundle.one(), list[str]()
    for backend, model, fastest in _attempts(bundle, provider, loops, batch, notes):
        count = threads or fastest or _threads(bundle, model, batch)
        opening = Opening(bundle.root / model.path, model.precision, count, bundle, model)
        try:
            loaded = backend.open(opening)
        except EnvironmentLacks as lack:
            if strict:
                raise
            notes.append(f"{model.path} does not run on {backend.on}: {lack}")
            continue
        check_declared(bundle.manifest.all_inputs, loaded.inputs, model.path)
        check_declared(bundle.manifest.all_outputs, loaded.outputs, model.path)
        return Session(bundle, model, loaded, count, tuple(notes))
    raise EnvironmentLacks(f"no form of {bundle.source} runs here: {'; '.join(notes)}")


def on_one_thread(session: Session) -> Session:
    """The same model on one thread, for callers that run several side by side: small models gain more from that than
    from threads that share each product. Itself where that is not ONNX Runtime on the CPU."""
    if session.threads == 1 or session.provider != CPU:
        return session
    bundle, model = session.bundle, session.model
    loaded = backends.get(backends.CPU).open(Opening(bundle.root / model.path, model.precision, 1, bundle, model))
    return replace(session, backend=loaded, threads=1)


def target_threads(manifest: Manifest) -> int:
    """The target's number of CPU threads, at most what this machine has."""
    return min(manifest.target.threads or usable_cpus(), usable_cpus())


def _threads(bundle: Bundle, model: ModelFile, batch: int) -> int:
    return remembered(bundle, model, batch) or target_threads(bundle.manifest)


def _with_loops(bundle: Bundle, loops: int | None) -> list[ModelFile]:
    """The bundle's models of `loops` loops; the whole model's without a number."""
    manifest = bundle.manifest
    every = manifest.models or (ModelFile(manifest.main, ONNXRUNTIME, manifest.target.precision or "fp32"),)
    chosen = [model for model in every if model.loops == (manifest.loops if loops is None else loops)]
    if not chosen:
        offered = ", ".join(str(one) for one in sorted({model.loops for model in every if model.loops}))
        raise InputError(
            f"{bundle.source} cannot run {loops} loops; "
            + (f"it offers {offered}" if offered else "it has one number of loops only")
        )
    return chosen


def _attempts(
    bundle: Bundle, provider: str | None, loops: int | None, batch: int, notes: list[str]
) -> Iterator[tuple[Backend, ModelFile, int | None]]:
    """What to try, in order of preference, with the number of threads where that is known: what runtime.bench found
    fastest here, then the bundle's order. Backends that this machine does not have are passed over, except for the
    first."""
    models = _with_loops(bundle, loops)
    cpu = backends.get(backends.CPU)
    if provider is None:
        first, *others = backends.order(bundle)
        for name in bundle.manifest.target.backends:
            if name not in backends.names():
                notes.append(f"the bundle also lists the backend {name}, which this edgepress has not; upgrade it")
        wanted = [first, *(one for one in others if one.lacks() is None)]
        choice = remembered_choice(bundle, batch)
        if choice is not None and choice.backend in backends.names() and not _is_stale(choice, [first, *others]):
            for model in models:
                if bundle.manifest.files[model.path].sha256 == choice.file:
                    notes.append(f"{choice.backend} is the fastest here by runtime.bench: {choice}")
                    yield backends.get(choice.backend), model, choice.threads
    else:
        wanted = [backends.asked(provider)]
    for backend in (*wanted, *([] if cpu in wanted else [cpu])):
        files = backends.files_for(backend.form, models)
        for model in engine_first(bundle, files) if backend.form == "engine" else files:
            yield backend, model, None


def _is_stale(choice: Choice, preferred: Sequence[Backend]) -> bool:
    """Whether the bundle prefers a backend that can run now and could not when they were compared."""
    return any(one.name not in choice.ms and one.lacks() is None for one in preferred)
