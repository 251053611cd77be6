"""A bundle's folder opens with Optimum's ORTModelFor... classes, and gives the golden outputs; a language model writes
what the bundle's own runtime writes.

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
from targets.errors import EnvironmentLacks, GateFailed, InputError, run_cli

PACKAGES = (
    *("optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "huggingface-hub<1.0", "tokenizers<0.23"),
    *("requests", "urllib3", "certifi", "charset-normalizer", "idna"),  # what this huggingface-hub needs besides
)
#: Task -> class. Vectors come from the class for any outputs: that for feature extraction asks for every token's.
CLASSES = {
    "image-classification": "ORTModelForImageClassification",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "masked-lm": "ORTModelForMaskedLM",
    "embedding": "ORTModelForCustomTasks",
    "causal-lm": "ORTModelForCausalLM",
}
#: Tokens that a language model writes.
TOKENS = 24
#: Runs in the other environment: bundle, class, model file, prompt ("" for models that do not write), whether sums are
#: asked to be exact -> one line of JSON.
_PROGRAM = """
import json, sys
import numpy as np
import onnxruntime, optimum.onnxruntime, torch, transformers
from importlib.metadata import version

folder, name, file, prompt, exact = sys.argv[1:6]
options = onnxruntime.SessionOptions()
if exact:
    options.add_session_config_entry("session.x64quantprecision", "1")
kind = getattr(optimum.onnxruntime, name)
model = kind.from_pretrained(folder, file_name=file, local_files_only=True, session_options=options)
what = {"class": name, "file": file}
if prompt:
    ids = torch.tensor([json.loads(prompt)])
    given = dict(attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1)
    written = model.generate(ids, min_new_tokens=TOKENS, max_new_tokens=TOKENS, **given)
    what["tokens"] = written[0, ids.shape[1]:].tolist()
else:
    golden = np.load(f"{folder}/golden.npz", allow_pickle=False)
    outputs = model(**{key[6:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("input_")})
    keys = [key for key in golden.files if key.startswith("output_") and key[7:] in outputs]
    off = {key: np.abs(outputs[key[7:]].detach().numpy() - golden[key]).max() for key in keys}
    what["errors"] = {key[7:]: [float(off[key]), float(golden["atol_" + key[7:]])] for key in keys}
    what["labels"] = list(model.config.id2label.values())[:3]
names = ("optimum", "optimum-onnx", "transformers", "onnxruntime", "torch")
print(json.dumps({**what, "versions": {one: version(one) for one in names}}))
""".replace("TOKENS", str(TOKENS))


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


def opens(python: Path, bundle: Path, exact: bool) -> list[dict[str, object]]:
    """Each model file of the bundle through Optimum. Raises GateFailed if one does not open or differs, InputError for
    a task that Optimum has no class for."""
    opened = open_files(bundle)
    task = opened.manifest.task
    if task not in CLASSES:
        raise InputError(f"{bundle} is for {task}; Optimum's classes are tried for {', '.join(CLASSES)}")
    rows = []
    for model in opened.manifest.models:
        prompt, wanted = written(bundle) if task == "causal-lm" else ([], [])
        command = [str(python), "-c", _PROGRAM, str(bundle.absolute()), CLASSES[task], model.path]
        command += [json.dumps(prompt) if prompt else "", "exact" if exact else ""]
        done = subprocess.run(command, capture_output=True, text=True, cwd=python.parent, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise GateFailed(f"{bundle}/{model.path} does not open with Optimum: {reason}")
        row = json.loads(done.stdout.splitlines()[-1])
        errors = row.get("errors", {})
        if prompt and row["tokens"] != wanted:
            raise GateFailed(f"{bundle}/{model.path} writes {row['tokens']} with Optimum, and {wanted} by itself")
        if not prompt and (not errors or any(error > allowed for error, allowed in errors.values())):
            raise GateFailed(f"{bundle}/{model.path} opens with Optimum but differs: {errors}")
        rows.append({**row, "precision": model.precision, "exact_sums_asked_for": exact})
    return rows


def written(bundle: Path) -> tuple[list[int], list[int]]:
    """A prompt, and what the bundle's own runtime writes after it, greedily."""
    import numpy as np

    from runtime.session import open_bundle
    from runtime.stream import Stream
    from runtime.texts.generate import Sampling, generate

    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        prompt = golden["input_input_ids"][0][:8].tolist()
    return prompt, list(generate(Stream(open_bundle(bundle)), prompt, TOKENS, Sampling()))


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks optimum-opens", description=__doc__)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", type=Path)
    parser.add_argument("--python", metavar="P", type=Path, help="the Python of an environment that has optimum-onnx")
    parser.add_argument(
        "--exact", action="store_true", help="ask ONNX Runtime for exact int8 sums, as our runtime does"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        python = args.python or make_environment(Path(name))
        rows = {str(bundle): opens(python, bundle, args.exact) for bundle in args.bundles}
    whole = {"command": f"python -m benchmarks optimum-opens {' '.join(sys.argv[1:])}", "bundles": rows}
    record.save(args.json, whole)
    for bundle, opened in rows.items():
        for row in opened:
            shown = f"error and allowed: {row['errors']}" if "errors" in row else f"{TOKENS} tokens, all equal"
            print(f"{bundle}/{row['file']}: {row['class']}, {shown}")
    return 0


if __name__ == "__main__":
    run_cli(main)
