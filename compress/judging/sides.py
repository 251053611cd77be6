"""Whatever can be asked, opened as a side of a comparison: a zoo model, a folder, a bundle, an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import tasks
from compress.data.tokenizer import tokenizer_of
from compress.json_files import read_object
from compress.judging.side import (
    BATCH,
    Arrays,
    Side,
    check_listed,
    forms,
    golden_check,
    is_bundle,
    located,
    onnx_size,
    seen_samples,
    weights_size,
)
from compress.judging.two_graphs import is_pair, pair_side
from runtime import states
from runtime.files import check_no_pipe
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.model import Transformer
    from compress.tasks.task import Task
    from runtime.bundles.manifest import Manifest, Tensor
    from runtime.session import Session


def open_side(spec: str) -> Side:
    """Open a zoo model, a bundle, a compressed model, a Hugging Face folder, an ONNX file or the folder of one.

    Raises InputError if it is none of them or damaged, EnvironmentLacks if it cannot run here.
    """
    path = located(spec)
    check_no_pipe(path)
    if path.suffix == ".onnx":
        return _beside(onnx_side(spec, path), path)
    if is_bundle(path):
        return _bundle(spec, path)
    if (path / "structure.json").is_file():
        return _compressed(spec, path)
    if is_pair(path) and not _has_weights(path):
        side, outputs = pair_side(spec, path)
        return _with_settings(side, path, side.inputs, outputs)
    exported = _exported(path)
    if exported is not None:
        return _beside(onnx_side(spec, exported), exported)
    if (path / "config.json").is_file():
        return _hugging_face(spec, path)
    from compress.families.folders import check_files, instead_of_folder

    check_files(path)
    what = f"{spec} is not a model that can be read: it has no manifest.json, structure.json or config.json"
    raise InputError(f"{what}{instead_of_folder(path)}")


def _exported(folder: Path) -> Path | None:
    """The ONNX file of a folder as Optimum writes it: with a config.json, but without weights beside it. None for other
    folders. Raises InputError where there are several and none is `model.onnx`."""
    files = sorted(folder.glob("*.onnx"))
    if not files or not (folder / "config.json").is_file() or _has_weights(folder):
        return None
    usual = folder / "model.onnx"
    if len(files) > 1 and usual not in files:
        raise InputError(f"{folder} has {', '.join(file.name for file in files)}; give one of these files")
    return usual if usual in files else files[0]


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin"))


def onnx_side(name: str, path: Path, precision: str | None = None) -> Side:
    """An ONNX file alone: of its task only what its inputs say. `precision`: of its weights, where it is known."""
    from export.neighbours import ASKED_ALONE, depends_on_batch
    from runtime import ort

    graph, alone = ort.load(path), depends_on_batch(path)
    return Side(
        name=name,
        kind="ONNX file",
        most=1 if alone else BATCH,
        notes=(f"{name}: {ASKED_ALONE}",) if alone else (),
        bytes=onnx_size(path),
        runs_on=f"ONNX Runtime, {graph.provider}",
        call=graph.run,
        wired=lambda task: task.wires(name, graph.inputs, graph.outputs),
        graphs={path: precision},
        inputs=tuple(graph.inputs),
    )


def _beside(side: Side, path: Path) -> Side:
    """What the files beside an ONNX file say of it."""
    from export.onnx_model import read_info

    folder = path.parent
    if (folder / "manifest.json").is_file():
        from runtime.bundles.manifest import load_manifest

        manifest = load_manifest(folder)
        check_listed(side.name, path, manifest)
        return replace(side, **_said(manifest, folder))
    info = read_info(path)
    return _with_settings(side, folder, info.inputs, info.outputs)


def _with_settings(side: Side, folder: Path, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Side:
    """What config.json and the settings of a processor or tokenizer say of a graph with these inputs and outputs."""
    from compress.data.processor import has_settings

    if (folder / "config.json").is_file():
        read_object(folder / "config.json")  # says what is wrong with it
    elif not has_settings(folder):
        return side
    task, notes = tasks.of_folder(folder), list[str]()
    task.wires(side.name, inputs, outputs)
    return replace(
        side,
        task=task,
        labels=task.labels_beside(folder, outputs),
        preprocessing=task.preprocessing(folder, notes.append) if task.prepares(folder) else None,
        files=_tokenizer_folder(folder),
        notes=(*side.notes, *notes),
    )


def _said(manifest: Manifest, root: Path) -> dict[str, Any]:
    """What a manifest says of its models."""
    return {
        "task": tasks.get(manifest.task),
        "labels": manifest.labels,
        "preprocessing": manifest.preprocessing,
        "files": root,
    }


def _bundle(name: str, path: Path) -> Side:
    from export.neighbours import ASKED_ALONE, depends_on_batch
    from runtime.session import open_bundle

    session = open_bundle(path, allow_failed=True)  # the gate here judges it anew
    manifest, root = session.manifest, session.bundle.root
    file = root / session.model.path
    alone = file.suffix == ".onnx" and depends_on_batch(file)
    return Side(
        name=name,
        kind="bundle",
        bytes=onnx_size(file),
        runs_on=session.describe(),
        call=lambda inputs: in_chunks(session, inputs),
        wired=lambda task: task.wires(name, manifest.all_inputs, manifest.outputs),
        most=1 if alone else min(BATCH, session.max_batch),
        notes=(f"{name}: {ASKED_ALONE}",) if alone else (),
        seen=seen_samples(root),
        golden=golden_check(session),
        graphs=forms(session),
        **_said(manifest, root),
    )


def _compressed(name: str, path: Path) -> Side:
    from compress.model import load

    return _torch_side(name, path, "compressed model", load(path), tasks.of_folder(path))


def _hugging_face(name: str, path: Path) -> Side:
    """Read into the canonical form, which says what is wrong with the folder as a run would.

    Where the original library knows the architecture and gives the task's answers, that runs it, so that the reference
    owes nothing to edgepress.
    """
    from compress.families import check_known
    from compress.judging.original import answered, count_parameters, knows, load_original, resized

    task = tasks.of_folder(path)
    check_known(path)
    notes: list[str] = []
    model = tasks.read_checkpoint(path, task.preprocessing(path, notes.append))
    side = replace(_torch_side(name, path, "model folder", model, task), notes=tuple(notes))
    if task.auto_class is None or not knows(path):
        return side
    import torch

    original = load_original(name, path, task.auto_class)

    asked = resized(original, model, read_object(path / "config.json"))

    def call(inputs: Mapping[str, np.ndarray]) -> Arrays:
        given = {key: torch.from_numpy(array) for key, array in inputs.items() if key != "position_ids"} | asked
        found = answered(name, original, given)
        return {one: found[one].numpy() for one in task.outputs}

    return replace(
        side,
        kind="Hugging Face model",
        runs_on=f"transformers, torch {torch.__version__}",
        parameters=count_parameters(original),
        call=call,
    )


def _torch_side(name: str, path: Path, kind: str, model: Transformer, task: Task) -> Side:
    import torch

    def call(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode():
            found = model.outputs({key: torch.from_numpy(array) for key, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    structure = model.structure
    return Side(
        name=name,
        kind=kind,
        bytes=weights_size(path),
        runs_on=f"torch {torch.__version__}",
        call=call,
        task=task,
        labels=tuple(structure.labels),
        preprocessing=dict(structure.preprocessing),
        files=_tokenizer_folder(path),
        parameters=model.num_parameters(),
        canonical=lambda: model,
    )


def _tokenizer_folder(path: Path) -> Path | None:
    own = tokenizer_of(path)
    return own.parent if own is not None else None


def in_chunks(session: Session, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The bundle's outputs for whole samples, in as many calls as its profile asks for. A Stream takes no padding
    behind tokens; here nobody reads what is beside it."""
    import numpy as np

    manifest = session.manifest
    names = [tensor.name for tensor in manifest.inputs]
    if not manifest.state:
        return session.run({name: inputs[name] for name in names})
    tokens = inputs["input_ids"].shape[1]
    cached = any(map(states.grows, manifest.state))
    most, parts = session.longest_chunk or tokens, []
    past: Arrays = {}
    for start in range(0, tokens, most):
        begin = {name: 0 if cached and name == states.MASK else start for name in names}
        part = session.run({**{name: inputs[name][:, begin[name] : start + most] for name in names}, **past})
        past = {state.past: part[state.present] for state in manifest.state}
        parts.append(part)
    return {tensor.name: np.concatenate([part[tensor.name] for part in parts], axis=1) for tensor in manifest.outputs}
