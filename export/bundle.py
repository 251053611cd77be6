"""Write a bundle: the folder (or the zip of it) that an edge device runs, whole or not at all, with equal bytes for
equal content."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.app import app_bytes
from export.archive import npz_bytes, write_zip
from export.folders import copy_file, replaced
from export.integrate import FOLDER, files_of
from export.onnx_model import OnnxInfo, read_info
from runtime import ort, states
from runtime.app import APP
from runtime.bundles.manifest import (
    GOLDEN,
    GRAPH,
    NAME,
    SCHEMA,
    SCHEMA_OF_GRAPHS,
    BundleTarget,
    EarlyExit,
    ModelFile,
    golden_file,
    is_inside,
    main_file,
    manifest_bytes,
    parse_manifest,
    verify_files,
)
from runtime.bundles.seal import SEAL, SIGNATURE, check_seal, seal_of
from runtime.field.drift import FILE as INPUTS
from runtime.field.drift import Summary
from runtime.files import explain, sha256_of, write_atomic
from targets.errors import GateFailed, InputError

if TYPE_CHECKING:
    import numpy as np

#: Error that another device may add to a form's own, as a part of the output's largest magnitude: other kernels sum in
#: another order, and a sum that lands on the other side of a rounding step moves an int8 value by one.
ALLOWANCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 3e-2, "int4": 3e-2}


@dataclass(frozen=True)
class Form:
    """A model file of the bundle and where it lies now."""

    entry: ModelFile
    source: Path


@dataclass(frozen=True)
class BundleContent:
    """All that goes into a bundle. `golden` names the graphs of the model, `model` where there is one, with a few real
    inputs of each, states included. `forms` are in the order in which a device should try them; each graph has one of
    its name, such as model.onnx.

    `files` maps relative paths to files that are copied in as they are: config.json, preprocessor_config.json, engines.
    `drift`, `model` and `versions` are put into the manifest as given; they must be plain JSON without NaN, and free of
    times and machine names. `looks`: of samples that nothing was trained on, for the device to hold inputs against.
    """

    task: str
    target: BundleTarget
    forms: Sequence[Form]
    golden: Mapping[str, Mapping[str, np.ndarray]]
    edgepress: str
    verdict: Literal["pass", "fail"]
    preprocessing: Mapping[str, Any] | None = None
    postprocessing: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    exit: EarlyExit | None = None
    drift: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    looks: Summary | None = None

    def forms_of(self, graph: str) -> list[Form]:
        """The forms of one graph."""
        return [form for form in self.forms if form.entry.graph == graph]


def write_bundle(folder: Path, content: BundleContent) -> Path:
    """Write the bundle to `folder`, replacing an older bundle there in one step; returns `folder`.

    Raises InputError if the content does not fit together, or if `folder` holds something that is not a bundle.
    """
    _check_place(folder)
    _check_content(content)
    with replaced(folder) as new:
        _fill(new, content)
    return folder


def write_zipped(bundle: Path, path: Path) -> Path:
    """Write a bundle's folder as one zip file; returns its path. Raises InputError if it is not a whole bundle."""
    manifest = manifest_bytes(bundle)
    verify_files(bundle, parse_manifest(manifest, str(bundle / NAME)), bundle)
    check_seal(manifest, bundle, bundle)
    temporary = path.parent / f".{path.name}.{os.getpid()}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            write_zip(bundle, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def golden(forms: Sequence[Form], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of golden.npz for the forms of one graph: inputs, what its main file gives for them on this CPU, and a
    tolerance per output that every form keeps here with room for other hardware; the same for each other number of
    loops. Raises GateFailed if an output is not finite."""
    arrays = {f"input_{name}": array for name, array in inputs.items()}
    whole = _main(forms).entry.loops
    for loops in dict.fromkeys(form.entry.loops for form in forms):
        alike = [form for form in forms if form.entry.loops == loops]
        arrays |= _golden_outputs(alike, inputs, "" if loops == whole else str(loops))
    return arrays


def _golden_outputs(forms: Sequence[Form], inputs: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Outputs and tolerances of forms of one number of loops; the outputs are those of the main file or the first."""
    import numpy as np

    arrays = {}
    results = {form.entry.path: ort.load(form.source, threads=1).run(inputs) for form in forms}
    for name, wanted in results.get(main_file(forms[0].entry.graph), results[forms[0].entry.path]).items():
        scale = float(np.abs(wanted).max(initial=0.0))
        room = max(ALLOWANCE[form.entry.precision] for form in forms) * max(scale, 1e-3)
        apart = max(float(np.abs(result[name] - wanted).max(initial=0.0)) for result in results.values())
        if not np.isfinite(scale + apart):
            raise GateFailed(
                f"output {name!r} of the bundle's model is not finite for the golden inputs; do not ship it"
            )
        arrays[f"output{kind}_{name}"] = wanted
        arrays[f"atol{kind}_{name}"] = np.array(apart + room)
    return arrays


def _main(forms: Sequence[Form]) -> Form:
    """The main form of one graph."""
    return next(form for form in forms if form.entry.path == main_file(form.entry.graph))


def _check_place(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder; give another place for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NAME).is_file():
        raise InputError(f"{folder} holds files but no bundle; it will not be replaced, give another place")


def _check_content(content: BundleContent) -> None:
    paths = [form.entry.path for form in content.forms]
    names = [*paths, *content.files]
    for main in map(main_file, content.golden):
        if main not in paths:
            raise InputError(f"a bundle needs {main}; given: {', '.join(paths) or 'nothing'}")
    own = (NAME, SEAL, SIGNATURE, APP, INPUTS, *map(golden_file, content.golden))
    for name in names:
        if not is_inside(name) or name in own or name.split("/")[0] == FOLDER:
            raise InputError(
                f"{name!r} cannot be a file of a bundle; give a relative path that is not {NAME}, {GOLDEN}, {APP} or "
                f"in {FOLDER}"
            )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the bundle would hold {twice!r} twice; give each file a name of its own")
    for name, source in (*((form.entry.path, form.source) for form in content.forms), *content.files.items()):
        if not source.is_file():
            raise InputError(f"{source} is missing; it should become {name} in the bundle")
    for graph in content.golden:
        infos = {form.entry.path: read_info(form.source) for form in content.forms_of(graph)}
        wanted = infos[main_file(graph)]
        for path, info in infos.items():
            if (info.inputs, info.outputs) != (wanted.inputs, wanted.outputs):
                raise InputError(
                    f"{path} and {main_file(graph)} have different inputs or outputs; make both from one export"
                )


def _fill(folder: Path, content: BundleContent) -> None:
    sources = {form.entry.path: form.source for form in content.forms} | dict(content.files)
    for name, source in sources.items():
        copy_file(source, folder / name)
    arrays = {graph: golden(content.forms_of(graph), inputs) for graph, inputs in content.golden.items()}
    for graph, some in arrays.items():
        write_atomic(folder / golden_file(graph), npz_bytes(some))
    write_atomic(folder / APP, app_bytes())
    names = [*sources, *map(golden_file, content.golden), APP]
    if content.looks is not None:
        content.looks.save(folder / INPUTS)
        names.append(INPUTS)
    so_far = parse_manifest(_manifest(content, _digests(folder, names)), NAME)
    texts = files_of(so_far, arrays)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    data = _manifest(content, _digests(folder, [*names, *texts]))
    verify_files(folder, parse_manifest(data, NAME), folder)
    write_atomic(folder / SEAL, seal_of(data))
    write_atomic(folder / NAME, data)


def _digests(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Size and SHA-256 of files of the folder, by name."""
    return {
        name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size} for name in sorted(names)
    }


def _manifest(content: BundleContent, digests: Mapping[str, Any]) -> bytes:
    infos = {graph: read_info(_main(content.forms_of(graph)).source) for graph in content.golden}
    info = next(iter(infos.values()))
    graphs = {graph: _signature(one) for graph, one in infos.items()}
    is_one = list(graphs) == [GRAPH]
    manifest = {
        "schema": SCHEMA if is_one else SCHEMA_OF_GRAPHS,
        "edgepress": content.edgepress,
        "task": content.task,
        "verdict": content.verdict,
        "target": {key: value for key, value in asdict(content.target).items() if value is not None},
        "model": dict(content.model),
        "models": [
            {
                key: value
                for key, value in asdict(form.entry).items()
                if value is not None and (key, value) != ("graph", GRAPH)
            }
            for form in content.forms
        ],
        "exit": asdict(content.exit) if content.exit else None,
        **(graphs[GRAPH] if is_one else {"graphs": graphs}),
        "preprocessing": content.preprocessing,
        "postprocessing": content.postprocessing,
        "labels": list(content.labels) if content.labels is not None else None,
        "drift": content.drift,
        "onnx": {"opset": info.opset, "ir": info.ir},
        "versions": dict(content.versions),
        "files": digests,
    }
    present = {key: value for key, value in manifest.items() if value is not None}
    try:
        return (json.dumps(present, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"the manifest would not be plain JSON: {error}") from error


def _signature(info: OnnxInfo) -> dict[str, Any]:
    """What a graph takes, gives and hands on."""
    state = states.states_of(info.inputs)
    handed_on = {name for one in state for name in (one.past, one.present)}
    return {
        "inputs": [asdict(tensor) for tensor in info.inputs if tensor.name not in handed_on],
        "outputs": [asdict(tensor) for tensor in info.outputs if tensor.name not in handed_on],
        "state": [asdict(one) for one in state],
    }
