"""What a bundle brings for programs without our Python: each gives the numbers of the device side, or says why it is
not there."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.runtime_toys import LABELS, PREPROCESSING, onnx_accumulator, onnx_classifier

from export.bundle import BundleContent, Form, write_bundle
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import BundleTarget, ModelFile
from runtime.images.image import prepare

PROFILE = {"batch": (1, 1, 8), "chunk": (1, 1, 16)}
INCLUDES = ("-I/usr/include/onnxruntime", "-I/usr/local/include/onnxruntime")
SHORTEST = {"mode": "shortest_edge", "size": 10, "resample": "bicubic"}
CASES: dict[str, dict[str, Any]] = {
    "exact": {},
    "shortest edge, cropped": {"resize": SHORTEST, "center_crop": [8, 8], "mean": [0.1, 0.2, 0.3]},
    "no resize, framed in zeros": {"resize": {"mode": "none"}, "center_crop": [8, 8], "std": [1.0, 0.5, 0.2]},
    "nearest, grey": {
        "resize": {"mode": "exact", "size": [8, 8], "resample": "nearest"},
        "channels": 1,
        "mean": [0.1],
        "std": [0.3],
    },
}
SIZES = ((8, 8), (40, 31), (9, 300), (300, 9), (5, 3), (7, 12))


@pytest.fixture
def bundled(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of the toy classifier; `changes` are those of its content, `steps` of its preprocessing."""

    def write(steps: dict[str, Any] | None = None, runtime: str = "tensorrt", samples: int = 3, **changes: Any) -> Path:
        onnx.save(onnx_classifier(), tmp_path / "toy.onnx")
        pixels = np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)
        forms = [Form(ModelFile("model.onnx", runtime, "fp32"), tmp_path / "toy.onnx")]
        if runtime == "tensorrt":
            forms.append(Form(ModelFile("model.cpu.onnx", "onnxruntime", "fp32"), tmp_path / "toy.onnx"))
        content: dict[str, Any] = {
            "task": "image-classification",
            "target": BundleTarget("jetson-orin-nano", profile=PROFILE),
            "forms": forms,
            "golden": {"model": {"pixel_values": pixels}},
            "edgepress": "0.1.0",
            "verdict": "pass",
            "preprocessing": {**PREPROCESSING, **(steps or {})},
            "postprocessing": {"kind": "softmax"},
            "labels": LABELS,
            **changes,
        }
        return write_bundle(tmp_path / "bundle", BundleContent(**content))

    return write


def readme(bundle: Path) -> str:
    return (bundle / "integrate" / "README.md").read_text()


def listed(bundle: Path) -> set[str]:
    folder = bundle / "integrate"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_for_a_jetson_brings_all_and_the_manifest_seals_them(bundled: Callable[..., Path]) -> None:
    bundle = bundled()
    deepstream = {"deepstream/config_infer.txt", "deepstream/labels.txt"}
    wanted = {"README.md", "Program.cs", "labels.txt", "onnxruntime.cpp", "trtexec.sh", *deepstream}
    assert listed(bundle) == wanted and all(f"`{name}`" in readme(bundle) for name in wanted - {"README.md"})
    manifest = open_files(bundle).manifest
    assert {f"integrate/{name}" for name in wanted} <= manifest.files.keys()
    assert sum(digest.bytes for name, digest in manifest.files.items() if name.startswith("integrate/")) < 20_000
    assert (bundle / "integrate" / "labels.txt").read_text().splitlines() == LABELS
    assert "failed" not in readme(bundle)


def test_a_bundle_that_failed_its_gate_says_so(bundled: Callable[..., Path]) -> None:
    assert "failed its accuracy gate" in readme(bundled(verdict="fail"))


def test_what_does_not_serve_is_left_out_and_the_page_says_why(bundled: Callable[..., Path]) -> None:
    cpu = bundled(runtime="onnxruntime")
    assert listed(cpu) == {"README.md", "Program.cs", "labels.txt", "onnxruntime.cpp"}
    assert readme(cpu).count("this target has none") == 2
    embedder = bundled(task="image-embedding", labels=None, postprocessing={"kind": "none"})
    assert listed(embedder) == {"README.md", "trtexec.sh"}
    assert "this model's task is image-embedding" in readme(embedder) and "no classes with names" in readme(embedder)
    assert "no range for the size batch" in readme(bundled(target=BundleTarget("jetson-orin-nano")))


def test_no_file_of_another_kind_can_take_the_folder(bundled: Callable[..., Path]) -> None:
    from targets.errors import InputError

    with pytest.raises(InputError, match="cannot be a file of a bundle"):
        bundled(files={"integrate/README.md": Path(__file__)})


# C++


def picture(path: Path, height: int, width: int) -> np.ndarray:
    """A picture on the disk, as PPM, and its pixels (H,W,3)."""
    pixels_HWC = np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels_HWC).save(path)
    return pixels_HWC


def compiled(bundle: Path, *options: str) -> Path:
    program = bundle.parent / "classify"
    source = bundle / "integrate" / "onnxruntime.cpp"
    base = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-Wall", "-Werror", str(source), "-o", str(program)]
    done = subprocess.run([*base, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@needs_compiler
@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
def test_the_program_in_cpp_feeds_the_bits_that_our_python_feeds(
    bundled: Callable[..., Path], tmp_path: Path, steps: dict[str, Any]
) -> None:
    bundle = bundled(steps)
    program = compiled(bundle, "-DWITHOUT_ONNXRUNTIME")
    for height, width in SIZES if steps.get("resize") != {"mode": "none"} else ((8, 8), (5, 11), (12, 3)):
        pixels_HWC = picture(tmp_path / "picture.ppm", height, width)
        done = subprocess.run([program, bundle, tmp_path / "picture.ppm"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        wanted = prepare([pixels_HWC], {**PREPROCESSING, **steps})
        np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), wanted.reshape(-1), f"{height} x {width}")


@needs_compiler
def test_the_program_in_cpp_reads_comments_and_refuses_what_is_no_picture(
    bundled: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = bundled()
    program = compiled(bundle, "-DWITHOUT_ONNXRUNTIME")
    body = bytes(range(192))
    given = {
        b"P6 # by hand\n# more\n8 8 255\n" + body: 0,
        b"P6 8 8 255\n" + body[:-1]: 2,
        b"P5 8 8 255\n" + body: 2,
        b"": 2,
    }
    for data, code in given.items():
        (tmp_path / "picture.ppm").write_bytes(data)
        done = subprocess.run([program, bundle, tmp_path / "picture.ppm"], capture_output=True, check=False)
        assert done.returncode == code and (code == 0) == (done.stderr == b"")
        assert len(done.stdout) == (0 if code else 8 * 8 * 3 * 4)


def has_headers() -> bool:
    if shutil.which("g++") is None:
        return False
    command = ["g++", "-E", *INCLUDES, "-include", "onnxruntime_cxx_api.h", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_headers(), reason="ONNX Runtime's C++ headers are not installed: no package index has them")
def test_the_program_in_cpp_names_the_classes_that_our_python_names(
    bundled: Callable[..., Path], tmp_path: Path
) -> None:
    import onnxruntime

    from runtime.answers import Wanted, answerer_of
    from runtime.session import open_bundle

    bundle = bundled()
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    program = compiled(bundle, *INCLUDES, str(library), f"-Wl,-rpath,{library.parent}")
    picture(tmp_path / "picture.ppm", 40, 31)
    done = subprocess.run([program, bundle, tmp_path / "picture.ppm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = open_bundle(bundle, "cpu")
    [answer] = answerer_of(session.bundle).answer(session, [str(tmp_path / "picture.ppm")], Wanted(top=5))
    assert isinstance(answer, dict)
    told = [line.rpartition(" ") for line in done.stdout.splitlines()]
    assert [label for label, _, _ in told] == [one["label"] for one in answer["top"]]
    for (_, _, probability), one in zip(told, answer["top"], strict=True):
        assert float(probability) == pytest.approx(one["probability"], abs=1e-4)


# C#


def test_the_program_in_c_sharp_knows_the_bundles_files_and_names(bundled: Callable[..., Path]) -> None:
    bundle = bundled()
    text = (bundle / "integrate" / "Program.cs").read_text()
    known = dict(re.findall(r'const string (\w+) = "(.*)";', text))
    assert known == {"model": "model.cpu.onnx", "input": "pixel_values", "output": "logits"}
    assert (bundle / known["model"]).is_file() and "{ 1, 3, 8, 8 }" in text
    assert "We have not compiled it" in readme(bundle)


# DeepStream


def test_nvinfers_arithmetic_with_these_numbers_is_the_models_preprocessing(bundled: Callable[..., Path]) -> None:
    steps = {"mean": [0.1, 0.2, 0.3], "std": [0.25, 0.25, 0.25]}
    folder = bundled(steps) / "integrate" / "deepstream"
    config = configparser.ConfigParser()
    config.read(folder / "config_infer.txt")
    keys = config["property"]
    x_HWC = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    offsets_C = np.array([float(one) for one in keys["offsets"].split(";")])
    y_HWC = float(keys["net-scale-factor"]) * (x_HWC - offsets_C)
    np.testing.assert_allclose(y_HWC.transpose(2, 0, 1), prepare([x_HWC], {**PREPROCESSING, **steps})[0], atol=1e-5)
    assert (folder / keys["onnx-file"]).resolve() == folder.parents[1] / "model.onnx"
    assert keys["infer-dims"] == "3;8;8" and keys["batch-size"] == "8" and keys["network-type"] == "1"
    assert (folder / keys["labelfile-path"]).read_text() == ";".join(LABELS) + "\n"


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ({"std": [0.1, 0.2, 0.3]}, "one scale for all channels, and this model divides by 0.1, 0.2, 0.3"),
        ({"resize": SHORTEST, "center_crop": [8, 8]}, "this model cuts out the middle"),
    ],
    ids=["another scale for each channel", "a crop"],
)
def test_what_nvinfer_cannot_repeat_is_not_there_and_the_page_says_why(
    bundled: Callable[..., Path], steps: dict[str, Any], why: str
) -> None:
    bundle = bundled(steps)
    assert not (bundle / "integrate" / "deepstream").exists() and why in readme(bundle)


# trtexec

#: Stands for the tool's command line: notes its arguments, and answers inputs by ONNX Runtime as the tool writes them.
TOOL = """#!{python}
import json, os, sys
from pathlib import Path
import numpy as np, onnxruntime
options = dict(one.lstrip("-").partition("=")[::2] for one in sys.argv[1:])
with open("local/calls.jsonl", "a") as calls:
    calls.write(json.dumps(options) + "\\n")
if "onnx" in options:
    Path(options["saveEngine"]).write_text(options["onnx"])
    sys.exit()
shapes = dict(one.split(":") for one in options["shapes"].split(","))
feed = {{
    name: np.fromfile(path, np.float32).reshape([int(size) for size in shapes[name].split("x")])
    for name, path in (one.split(":") for one in options["loadInputs"].split(","))
}}
session = onnxruntime.InferenceSession(Path(options["loadEngine"]).read_text())
with open(options["exportOutput"], "w") as out:
    out.write("[\\n")
    for place, (one, y) in enumerate(zip(session.get_outputs(), session.run(None, feed))):
        values = ", ".join(f"{{value:g}}" for value in (y + float(os.environ["OFF"])).reshape(-1))
        sizes = "x".join(map(str, y.shape))
        out.write(f'{{", " if place else "  "}}{{{{ "name" : "{{one.name}}"\\n  , "dimensions" : "{{sizes}}"\\n')
        out.write(f'  , "values" : [ {{values}} ]\\n  }}}}\\n')
    out.write("]\\n")
"""


def run_script(bundle: Path, off: str = "0") -> subprocess.CompletedProcess[str]:
    tool = bundle.parent / "bin" / "trtexec"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(TOOL.format(python=sys.executable))
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "OFF": off}
    script = ["bash", str(bundle / "integrate" / "trtexec.sh")]
    return subprocess.run(script, capture_output=True, text=True, env=environment, cwd="/", check=False)


needs_tools = pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")


@needs_tools
def test_the_script_builds_for_the_profile_loads_and_finds_the_golden_outputs(bundled: Callable[..., Path]) -> None:
    bundle = bundled()
    done = run_script(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"logits: off by \S+ at most, \S+ allowed\n", done.stdout)
    folder = bundle / "integrate" / "local"
    build, load = (json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines())
    assert "stronglyTyped" in build and build["saveEngine"] == load["loadEngine"] == "local/model.engine"
    assert (folder.parent / build["onnx"]).resolve() == bundle / "model.onnx"
    assert (build["minShapes"], build["maxShapes"]) == ("pixel_values:1x3x8x8", "pixel_values:8x3x8x8")
    assert load["shapes"] == "pixel_values:3x3x8x8"
    with np.load(bundle / "golden.npz") as golden:
        for kind, name in (("input", "pixel_values"), ("output", "logits")):
            raw = (folder / f"{kind}_{name}.bin").read_bytes()
            assert raw == golden[f"{kind}_{name}"].tobytes()


@needs_tools
@pytest.mark.parametrize(("off", "told"), [("0.5", "off by"), ("nan", "other numbers"), ("inf", "other numbers")])
def test_the_script_fails_for_other_outputs_than_the_golden_ones(
    bundled: Callable[..., Path], off: str, told: str
) -> None:
    done = run_script(bundled(), off)
    assert done.returncode == 1 and told in done.stdout


@needs_tools
def test_more_golden_samples_than_an_engine_takes_are_cut_to_its_batch(bundled: Callable[..., Path]) -> None:
    bundle = bundled(samples=11)
    done = run_script(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(bundle / "golden.npz") as golden:
        first = golden["input_pixel_values"][:8].tobytes()
    assert (bundle / "integrate" / "local" / "input_pixel_values.bin").read_bytes() == first


@needs_tools
def test_a_model_with_state_is_checked_at_the_one_batch_of_its_engine(
    bundled: Callable[..., Path], tmp_path: Path
) -> None:
    onnx.save(onnx_accumulator(), tmp_path / "sum.onnx")
    x = np.random.default_rng(2).standard_normal((2, 3, 2)).astype(np.float32)
    bundle = bundled(
        task="causal-lm",
        forms=[Form(ModelFile("model.onnx", "tensorrt", "fp32"), tmp_path / "sum.onnx")],
        golden={"model": {"x": x, "past_total": np.ones((2, 2), np.float32)}},
    )
    done = run_script(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["y", "present_total"]
    build = json.loads((bundle / "integrate" / "local" / "calls.jsonl").read_text().splitlines()[0])
    assert build["minShapes"] == "x:1x1x2,past_total:1x2" and build["maxShapes"] == "x:1x16x2,past_total:1x2"


def test_a_missing_tool_is_named(bundled: Callable[..., Path]) -> None:
    environment = {"PATH": os.environ["PATH"], "TRTEXEC": "trtexec-nowhere"}
    script = ["bash", str(bundled() / "integrate" / "trtexec.sh")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (3, "error: trtexec-nowhere is missing; install it\n")
