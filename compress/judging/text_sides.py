"""Whatever takes texts, opened as a side of a comparison and asked through its task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import tasks, zoo
from compress.data.tokenizer import tokenizer_of
from compress.json_files import read_object
from compress.judging.side import (
    Side,
    check_listed,
    forms,
    golden_check,
    is_bundle,
    is_predictions,
    located,
    onnx_size,
    seen_samples,
    weights_size,
)
from compress.tasks.text import TextTask
from runtime import states
from runtime.states import MASK
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from compress.model import Transformer
    from runtime.bundles.manifest import Tensor
    from runtime.session import Session

    Arrays = dict[str, np.ndarray]
    Run = Callable[[Mapping[str, np.ndarray]], Arrays]


#: Tasks whose outputs transformers gives itself.
_AUTO_CLASSES = {"text-classification": "AutoModelForSequenceClassification", "causal-lm": "AutoModelForCausalLM"}


@dataclass(frozen=True)
class Described:
    """What a task has to know of a model; a bundle's manifest says no more."""

    labels: tuple[str, ...]
    hidden_size: int
    preprocessing: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TextSide(Side):
    """`run` maps the inputs of a batch to the outputs of the task. `task`, `described` and `files` (the folder of the
    tokenizer) are None where a file or folder does not bring them; it is asked as the other side is."""

    run: Run
    task: TextTask | None = None
    described: Described | None = None
    files: Path | None = None

    def completed(self, other: TextSide) -> TextSide:
        """This side; what it does not bring is the other's."""
        task, described = self.task or other.task, self.described or other.described
        return replace(self, task=task, described=described, files=self.files or other.files)


def is_text_model(spec: str) -> bool:
    """Is it a model, a bundle or an ONNX file for a task on texts?"""
    if is_predictions(spec):
        return False
    path = zoo.locate(spec)
    if not path.exists():
        return False
    if path.suffix == ".onnx":
        beside = _task_beside(path)
        return _takes_tokens(path) if beside is None else isinstance(beside, TextTask)
    return isinstance(tasks.get(_bundle_task(path)) if is_bundle(path) else tasks.of_folder(path), TextTask)


def open_text_side(spec: str) -> TextSide:
    """Open a zoo model, a bundle, a compressed model, a Hugging Face folder or an ONNX file.

    Raises InputError if it is none of them, damaged or for another kind of input, EnvironmentLacks if it cannot run.
    """
    path = located(spec)
    if path.suffix == ".onnx":
        return _onnx(spec, path)
    if is_bundle(path):
        return _bundle(spec, path)
    return _compressed(spec, path) if (path / "structure.json").is_file() else _hugging_face(spec, path)


def _takes_tokens(path: Path) -> bool:
    from runtime import ort

    return any(tensor.name == "input_ids" for tensor in ort.load(path).inputs)


def _task_beside(path: Path) -> tasks.task.Task | None:
    """The task of an ONNX file by the manifest or the config.json beside it."""
    folder = path.parent
    if (folder / "manifest.json").is_file():
        from runtime.bundles.manifest import load_manifest

        return tasks.get(load_manifest(folder).task)
    if not (folder / "config.json").is_file():
        return None
    read_object(folder / "config.json")  # says what is wrong with it
    return tasks.of_folder(folder)


def _bundle_task(path: Path) -> str:
    from runtime.bundles.bundle import open_files

    return open_files(path).manifest.task


def _text_task(task: tasks.task.Task) -> TextTask:
    if not isinstance(task, TextTask):
        raise InputError(f"the task {task.name} is not on texts; compare it with a model of its own kind")
    return task


def _onnx(name: str, path: Path) -> TextSide:
    from runtime import ort

    graph = ort.load(path)
    beside = _task_beside(path)
    task = None if beside is None else _text_task(beside)
    declared = {tensor.name: tensor for tensor in graph.inputs}
    if "input_ids" not in declared:
        raise InputError(f"{name} takes no texts: it has the inputs {', '.join(declared)}, but no input_ids")
    side = TextSide(
        name=name,
        kind="ONNX file",
        bytes=onnx_size(path),
        runs_on=f"ONNX Runtime, {graph.provider}",
        run=lambda inputs: graph.run(_fitted(name, inputs, declared)),
        graphs=(path,),
        fed=lambda inputs: _fitted(name, inputs, declared),
    )
    if task is None:
        return side
    described = _described_beside(name, path, task, graph.outputs)
    return replace(side, task=task, described=described, files=_tokenizer_folder(path.parent))


def _described_beside(name: str, path: Path, task: TextTask, outputs: Sequence[Tensor]) -> Described:
    from compress.families.family import labels_in

    folder = path.parent
    if (folder / "manifest.json").is_file():
        from runtime.bundles.manifest import load_manifest

        manifest = load_manifest(folder)
        check_listed(name, path, manifest)
        return _of_manifest(name, manifest)
    preprocessing, answer = task.preprocessing(folder, lambda text: None), task.outputs[0]
    sizes = {tensor.name: tensor.shape[-1] for tensor in outputs}
    check_outputs(name, sizes, task)
    if task.metric == "perplexity":
        return Described((), 0, preprocessing)
    size = sizes[answer]
    if not isinstance(size, int):
        raise InputError(
            f"{name} does not say how many numbers {answer} has; export it again with a fixed last dimension"
        )
    labels = labels_in(read_object(folder / "config.json"), folder, size) if task.metric == "top1" else ()
    return Described(labels, size, preprocessing)


def check_outputs(name: str, given: Collection[str], task: TextTask) -> None:
    """Raises InputError unless the outputs that the task needs are among those that a model gives."""
    if missing := [one for one in task.outputs if one not in given]:
        raise InputError(f"{name} gives {', '.join(given)}, but not {missing[0]}, which {task.name} needs")


def _of_manifest(name: str, manifest: Any) -> Described:
    if manifest.preprocessing is None:
        raise InputError(f"{name} does not say how a text becomes its input; make the bundle again")
    return Described(manifest.labels or (), int(manifest.outputs[0].shape[-1]), manifest.preprocessing)


def _bundle(name: str, path: Path) -> TextSide:
    from runtime.session import open_bundle

    session = open_bundle(path, allow_failed=True)  # the gate here judges it anew
    manifest, root = session.manifest, session.bundle.root
    declared = {tensor.name: tensor for tensor in manifest.all_inputs}
    return TextSide(
        name=name,
        kind="bundle",
        bytes=onnx_size(root / session.model.path),
        runs_on=session.describe(),
        seen=seen_samples(root),
        golden=golden_check(session),
        graphs=forms(session),
        fed=lambda inputs: _fitted(name, inputs, declared),
        run=lambda inputs: _in_chunks(session, _positioned(inputs)),
        task=_text_task(tasks.get(manifest.task)),
        described=_of_manifest(name, manifest),
        files=root,
    )


def _compressed(name: str, path: Path) -> TextSide:
    from compress.model import load

    return _torch_side(name, path, "compressed model", load(path), _text_task(tasks.of_folder(path)))


def _hugging_face(name: str, path: Path) -> TextSide:
    """With the original library where it knows the architecture and has the task's head; sentence embeddings, whose
    pooling is another library's, in the canonical form."""
    from compress.families import read_checkpoint
    from compress.judging.original import count_parameters, knows, load_original

    task = _text_task(tasks.of_folder(path))
    model = read_checkpoint(path, task.preprocessing(path, lambda text: None))
    side = _torch_side(name, path, "model folder", model, task)
    if task.name not in _AUTO_CLASSES or not knows(path):
        return side
    import torch

    original = load_original(name, path, _AUTO_CLASSES[task.name])

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        given = {key: torch.from_numpy(inputs[key]) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return {"logits": original(**given).logits.numpy()}

    return replace(
        side,
        kind="Hugging Face model",
        runs_on=f"transformers, torch {torch.__version__}",
        parameters=count_parameters(original),
        run=run,
    )


def _torch_side(name: str, path: Path, kind: str, model: Transformer, task: TextTask) -> TextSide:
    import torch

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode():
            answer = model({key: torch.from_numpy(array) for key, array in inputs.items()})
        return {output: answer.numpy() for output in task.outputs}

    structure = model.structure
    return TextSide(
        name=name,
        kind=kind,
        bytes=weights_size(path),
        runs_on=f"torch {torch.__version__}",
        parameters=model.num_parameters(),
        canonical=lambda: model,
        run=run,
        task=task,
        described=Described(tuple(structure.labels), structure.hidden_size, structure.preprocessing),
        files=_tokenizer_folder(path),
    )


def _tokenizer_folder(path: Path) -> Path | None:
    own = tokenizer_of(path)
    return own.parent if own is not None else None


def _positioned(inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The inputs, positions that count the real tokens, and the first kind of token for all."""
    return {**inputs, states.PLACES: states.positions(inputs[MASK]), "token_type_ids": 0 * inputs["input_ids"]}


def _in_chunks(session: Session, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """The bundle's outputs for whole texts, in as many calls as its profile asks for. A Stream takes no padding behind
    tokens; here nobody reads what is beside it."""
    import numpy as np

    manifest, tokens = session.manifest, inputs["input_ids"].shape[1]
    names = {tensor.name for tensor in manifest.inputs} & set(inputs)
    if not manifest.state:
        return session.run({name: inputs[name] for name in names})
    cached = any(map(states.grows, manifest.state))
    most, parts = session.longest_chunk or tokens, []
    past: Arrays = {}
    for start in range(0, tokens, most):
        begin = {name: 0 if cached and name == MASK else start for name in names}
        part = session.run({**{name: inputs[name][:, begin[name] : start + most] for name in names}, **past})
        past = {state.past: part[state.present] for state in manifest.state}
        parts.append(part)
    return {tensor.name: np.concatenate([part[tensor.name] for part in parts], axis=1) for tensor in manifest.outputs}


def _fitted(name: str, inputs: Mapping[str, np.ndarray], declared: Mapping[str, Any]) -> Arrays:
    """What the graph declares; states start fresh."""
    sizes = {states.BATCH: len(inputs["input_ids"])}
    whole = {**states.fresh(states.states_of(declared.values()), sizes), **_positioned(inputs)}
    for key, tensor in declared.items():
        if key not in whole:
            shape = list(tensor.shape)
            raise InputError(f"{name} has an input {key} of shape {shape}, which a text does not give; export it again")
    return {key: whole[key] for key in declared}
