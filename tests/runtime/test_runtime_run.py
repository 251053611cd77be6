"""python -m runtime.run labels images and exits as promised."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import LABELS, PREPROCESSING, REPO, oracle

from runtime.images.image import prepare


@pytest.fixture
def images(tmp_path):
    """A folder of five images of several kinds, and what the classifier says of each, computed in numpy."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    wanted = {}
    for at, name in enumerate(["a.png", "b.png", "c.npy", "d.jpg", "deep/e.png"]):
        image = np.random.default_rng(at).integers(0, 256, (9 + at, 12, 3), dtype=np.uint8)
        if name.endswith(".npy"):
            np.save(folder / name, image)
        else:
            Image.fromarray(image).save(folder / name)
        with_loss = np.array(Image.open(folder / name)) if name.endswith(".jpg") else image
        logits = oracle(prepare([with_loss], PREPROCESSING))[0]
        powers = np.exp(logits - logits.max())
        wanted[str(folder / name)] = powers / powers.sum()
    (folder / "readme.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")
    return folder, wanted


def test_images_and_folders_are_labelled_as_the_model_says(run_module, bundle, images):
    folder, wanted = images
    done = run_module("runtime.run", bundle, folder, folder / "a.png", "--json", "--top", "5")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["provider"] == "CPUExecutionProvider" and report["model"] == "model.onnx"
    assert [result["input"] for result in report["results"]] == [*sorted(wanted), str(folder / "a.png")]
    for result in report["results"]:
        expected = wanted[result["input"]]
        assert [guess["label"] for guess in result["top"]] == [LABELS[index] for index in np.argsort(-expected)]
        for guess in result["top"]:
            assert guess["probability"] == pytest.approx(expected[guess["index"]], abs=1e-5)


def test_the_plain_view_is_one_line_per_image_with_the_options_anywhere(run_module, bundle, images):
    folder, wanted = images
    done = run_module(
        "runtime.run", "--threads", "1", bundle, "--top", "2", folder / "a.png", "--provider", "cpu", folder / "b.png"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    best = LABELS[int(np.argmax(wanted[str(folder / "a.png")]))]
    assert len(lines) == 2 and lines[0].startswith(f"{folder / 'a.png'}: {best} 0.")
    assert lines[0].count(", ") == 1
    assert "running model.onnx (fp32) on CPUExecutionProvider, 1 thread" in done.stderr


def test_paths_are_read_from_stdin_and_answered_one_by_one(bundle, images):
    folder, _ = images
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.run", str(bundle), "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPO,
    ) as process:  # fmt: skip
        for name in ("a.png", "b.png"):
            process.stdin.write(f"{folder / name}\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(f"{folder / name}: ")
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(bundle, images):
    command = [sys.executable, "-m", "runtime.run", str(bundle), "-"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=REPO)
    process.stdin.write(f"{images[0]}/a.png\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.stdout.close()
    _, told = process.communicate(f"{images[0]}/a.png\n" * 3)
    assert process.returncode == 141 and "Traceback" not in told and "Broken pipe" not in told


def test_a_zip_runs_like_the_folder(run_module, bundle, images, tmp_path):
    import shutil

    folder, _ = images
    shutil.make_archive(str(tmp_path / "packed"), "zip", bundle)
    plain = run_module("runtime.run", bundle, folder, "--top", "3")
    packed = run_module("runtime.run", tmp_path / "packed.zip", folder, "--top", "3")
    assert packed.returncode == 0 and packed.stdout == plain.stdout


def test_a_failed_bundle_runs_only_when_told_to(run_module, maker, images):
    folder, _ = images
    bundle = maker.write(verdict="fail")
    done = run_module("runtime.run", bundle, folder / "a.png")
    assert done.returncode == 1 and done.stdout == "" and "--allow-failed" in done.stderr
    assert run_module("runtime.run", bundle, folder / "a.png", "--allow-failed").returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere", "x.png"], 2, "no bundle at nowhere"),
        (["{bundle}", "nowhere.png"], 2, "no file or folder nowhere.png"),
        (["{bundle}", ""], 2, "no file or folder ''"),
        (["{bundle}"], 2, "give images, recordings or texts"),
        (["{bundle}", "{images}/a.png", "--top", "0"], 2, "whole number of 1 or more"),
        (["{bundle}", "{images}/a.png", "--provider", "cuad"], 2, "nearest: 'cuda'"),
        (["{bundle}", "{images}/a.png", "--provider", "dml", "--strict-provider"], 3, "DmlExecutionProvider"),
        (["{bundle}", "{images}/readme.txt"], 2, "readme.txt"),
        (["{bundle}", "-", "x.png"], 2, "stands alone"),
        (["{bundle}", "--watch", "{images}"], 2, "--watch and --out belong together"),
        (["{bundle}", "{images}/a.png", "--once"], 2, "--once belongs to --watch"),
        (["{bundle}", "{images}/a.png", "--watch", "{images}", "--out", "x"], 2, "or --watch DIR"),
        (["{bundle}", "{images}/deep/none"], 2, "no file or folder"),
        (["{bundle}", "{images}/a.png", "--tokens", "9"], 2, "a bundle for image-classification"),
        (["{bundle}", "{images}/a.png", "--top-p", "0.9"], 2, "--top-p says nothing to"),
    ],
)
def test_wrong_usage_is_one_line_without_a_traceback(run_module, bundle, images, args, code, message):
    done = run_module("runtime.run", *[text.format(bundle=bundle, images=images[0]) for text in args])
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_fallback_is_told_on_stderr(run_module, bundle, images):
    done = run_module("runtime.run", bundle, images[0] / "a.png", "--provider", "dml")
    assert done.returncode == 0 and done.stderr.startswith("note: model.onnx does not run on DmlExecutionProvider")


def test_a_damaged_bundle_exits_two_and_names_the_file(run_module, bundle, images):
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    done = run_module("runtime.run", bundle, images[0])
    assert done.returncode == 2 and "model.onnx: its SHA-256 differs" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "embedding"}, "does not say how a text becomes its input"),
        ({"labels": ["one"]}, "1 labels, 5 classes"),
        ({"postprocessing": {"kind": "sigmoid"}}, "'sigmoid'; allowed: softmax"),
    ],
)
def test_a_bundle_that_cannot_label_is_refused(run_module, maker, images, change, message):
    done = run_module("runtime.run", maker.write(**change), images[0] / "a.png")
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("module", ["run", "bench", "selftest", "build"])
def test_help_answers_at_once(run_module, module):
    took = []
    for _ in range(3):
        start = time.perf_counter()
        done = run_module(f"runtime.{module}", "--help")
        took.append(time.perf_counter() - start)
        assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m runtime.{module}")
    assert min(took) < 0.5


def test_importing_runtime_and_a_whole_run_load_numpy_and_onnxruntime_alone(bundle, images):
    """Loaded here: what the run needs beyond what numpy and onnxruntime load by themselves."""
    code = (
        "import sys, contextlib, io\n"
        "import numpy, onnxruntime, onnxruntime.capi.onnxruntime_pybind11_state\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import runtime, runtime.run, runtime.bench, runtime.selftest, runtime.build, runtime.measuring.compare\n"
        f"sys.argv = ['run', {str(bundle)!r}, {str(images[0] / 'a.png')!r}, {str(images[0] / 'c.npy')!r}]\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert runtime.run.main() == 0\n"
        f"sys.argv = ['selftest', {str(bundle)!r}]\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert runtime.selftest.main() == 0\n"
        "after = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(after - before - set(sys.stdlib_module_names)))\n"
        "print(*sorted(after))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 0, done.stderr
    new, everything = (set(line.split()) for line in done.stdout.splitlines())
    assert new <= {"edgepress_siblings", "runtime", "targets", "__mp_main__"}
    forbidden = {"torch", "transformers", "PIL", "pydantic", "rich", "typer", "scipy", "onnx", "compress", "export"}
    assert not everything & forbidden


def test_importing_runtime_alone_does_not_even_load_numpy():
    code = "import sys, runtime.run, runtime.images.image, runtime.session, runtime.streams.stream; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"numpy", "onnxruntime"}
