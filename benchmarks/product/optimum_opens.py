"""A bundle's folder opens with Optimum's ORTModelFor... classes, and gives the golden outputs.

    python -m benchmarks optimum-opens out/bundle --json benchmarks/results/optimum.json

optimum-onnx 0.1.0 wants a transformers older than 4.58, so it gets an environment of its own: a virtual environment
that holds these two and sees this environment's other packages behind them. `--python P` takes one that is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.lab import record
from runtime.bundles.bundle import open_files
from targets.errors import EnvironmentLacks, GateFailed, run_cli

PACKAGES = ("optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "huggingface-hub<1.0", "tokenizers<0.23")
CLASSES = {
    "image-classification": "ORTModelForImageClassification",
    "text-classification": "ORTModelForSequenceClassification",
    "embedding": "ORTModelForFeatureExtraction",
    "causal-lm": "ORTModelForCausalLM",
}
#: Runs in the other environment: bundle, class, model file -> one line of JSON.
_PROGRAM = """
import json, sys
import numpy as np
import onnxruntime, optimum.onnxruntime, torch, transformers
from importlib.metadata import version

folder, name, file = sys.argv[1:4]
golden = np.load(f"{folder}/golden.npz", allow_pickle=False)
model = getattr(optimum.onnxruntime, name).from_pretrained(folder, file_name=file, local_files_only=True)
inputs = {key[6:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("input_")}
outputs = model(**inputs)
errors = {
    key[7:]: [float(np.abs(outputs[key[7:]].detach().numpy() - golden[key]).max()), float(golden["atol_" + key[7:]])]
    for key in golden.files
    if key.startswith("output_") and key[7:] in outputs
}
versions = {one: version(one) for one in ("optimum", "optimum-onnx", "transformers", "onnxruntime", "torch")}
labels = list(model.config.id2label.values())[:3]
what = {"class": type(model).__name__, "file": file, "errors": errors, "labels": labels, "versions": versions}
print(json.dumps(what))
"""


def make_environment(folder: Path) -> Path:
    """The environment with Optimum; returns its Python. Raises EnvironmentLacks if its packages cannot be had."""
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "behind.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    python = folder / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentLacks(f"Optimum's environment cannot be made: {reason}")
    return python


def opens(python: Path, bundle: Path) -> list[dict[str, object]]:
    """Each model file of the bundle through Optimum. Raises GateFailed if one does not open or differs."""
    opened = open_files(bundle)
    rows = []
    for model in opened.manifest.models:
        command = [str(python), "-c", _PROGRAM, str(bundle.absolute()), CLASSES[opened.manifest.task], model.path]
        done = subprocess.run(command, capture_output=True, text=True, cwd=python.parent, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise GateFailed(f"{bundle}/{model.path} does not open with Optimum: {reason}")
        row = json.loads(done.stdout.splitlines()[-1])
        if not row["errors"] or any(error > allowed for error, allowed in row["errors"].values()):
            raise GateFailed(f"{bundle}/{model.path} opens with Optimum but differs: {row['errors']}")
        rows.append(row)
    return rows


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks optimum-opens", description=__doc__)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path)
    parser.add_argument("--python", metavar="P", type=Path, help="the Python of an environment that has optimum-onnx")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        python = args.python or make_environment(Path(name))
        rows = {str(bundle): opens(python, bundle) for bundle in args.bundles}
    whole = {"command": f"python -m benchmarks optimum-opens {' '.join(sys.argv[1:])}", "bundles": rows}
    record.save(args.json, whole)
    for bundle, opened in rows.items():
        for row in opened:
            print(f"{bundle}/{row['file']}: {row['class']}, error and allowed: {row['errors']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
